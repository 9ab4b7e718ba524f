"""Damaged copies of DICOM CT series, and what the readers say of them.

As a program: ``python Testing/unit/ct_mutations.py COUNT [SEED]`` reads that many, and prints how often each answer came; it
ends with an error at the first one that is no answer.
"""

from __future__ import annotations

import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ct_files import PATIENT, make_series, save
from multi_frame_files import make_multi_frame
from P2SAMSlicerLib.dicom.folder_index import index_folder
from P2SAMSlicerLib.dicom.indexed_series import SeriesKind
from P2SAMSlicerLib.dicom.series import read_ct_series, read_dicom_series
from P2SAMSlicerLib.errors import InputError
from pydicom.uid import JPEGLSLossless, RLELossless

#: Values that lengths, counts and sizes are replaced by.
_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFE, 0xFFFFFFFF)
_WORDS = (
    b"nan",
    b"inf",
    b"-1e999",
    b"1e308",
    b"\\\\\\\\",
    b"\0\0\0\0",
    b"\xff\xfe\xfd",
    b"9" * 16,
    b"CT",
    b"LOCALIZER",
    b"0.0",
)


def originals(folder: Path) -> list[Path]:
    """Folders of undamaged series of few, small files: classic, compressed, multi-frame; without preamble."""
    made = []
    for name, syntax in (("plain", None), ("rle", RLELossless), ("jpegls", JPEGLSLossless)):
        slices = make_series(count=3)
        frames = make_multi_frame(make_series(count=3))
        for each in (*slices, frames):
            if syntax is not None:
                each.compress(syntax, generate_instance_uid=False)
        made += [save(folder / name, slices), save(folder / f"{name}_frames", [frames])]
    return made


def mutated(data: bytes, draw: random.Random) -> bytes:
    """One file with a few faults."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5))):
        if not changed:
            break
        # Mostly in the header, where there is more to go wrong than in the pixels.
        place = draw.randrange(draw.choice((len(changed), min(len(changed), 1200))))
        kind = draw.randrange(7)
        if kind == 0:
            changed[place] = draw.randrange(256)
        elif kind == 1:
            del changed[place:]
        elif kind == 2:
            size = draw.choice((2, 4))
            changed[place : place + size] = (draw.choice(_NUMBERS) & (256**size - 1)).to_bytes(size, "little")
        elif kind == 3:
            word = draw.choice(_WORDS)
            changed[place : place + len(word)] = word
        elif kind == 4:
            del changed[place : place + draw.randrange(1, 40)]
        elif kind == 5:
            changed[place:place] = changed[place : place + draw.randrange(1, 200)] * draw.choice((1, 2, 30))
        else:
            numbers = list(re.finditer(rb"\d+(\.\d+)?", bytes(changed)))
            if numbers:
                found = draw.choice(numbers)
                changed[found.start() : found.end()] = draw.choice(_WORDS)[: found.end() - found.start()].ljust(
                    found.end() - found.start()
                )
    return bytes(changed)


def answer(read: Callable[[], object]) -> str:
    """What a reader says, in words without numbers.

    :raises AssertionError: it tells of the patient, or in more than one line. Other errors pass, as faults of the reader.
    """
    try:
        read()
    except InputError as error:
        message = str(error)
        assert "\n" not in message, "more than one line"
        assert not any(secret in message for secret in (PATIENT, "Doe")), "it tells who the patient is"
        return re.sub(r"[-+]?[\d.]+(e[-+]?\d+)?", "#", message.partition(": ")[2])[:60]
    return "read"


def run(count: int, seed: int = 0) -> Counter[str]:
    """Damage one file of a series, index its folder and read what is there, ``count`` times."""
    draw = random.Random(seed)
    said: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        sources = [{path.name: path.read_bytes() for path in each.iterdir()} for each in originals(Path(temporary))]
        for number in range(count):
            folder = Path(temporary) / "case"
            folder.mkdir()
            source = draw.choice(sources)
            victim = draw.choice(sorted(source))
            for name, data in source.items():
                (folder / name).write_bytes(mutated(data, draw) if name == victim else data)
            try:
                said.update(answers(folder))
            except BaseException:
                kept = Path(tempfile.mkdtemp(prefix="ct_mutation_"))
                shutil.copytree(folder, kept, dirs_exist_ok=True)
                print(f"case {number} of seed {seed}: kept in {kept}", file=sys.stderr)
                raise
            shutil.rmtree(folder)
    return said


def answers(folder: Path) -> list[str]:
    """What the readers say of a folder and of each series in it."""
    series = index_folder(folder).of_kind(SeriesKind.CT)
    said = [answer(partial(read_ct_series, each.paths, "visit_1", resample=True)) for each in series]
    return [*said, "folder: " + answer(partial(read_dicom_series, folder))]


if __name__ == "__main__":
    for words, times in run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0).most_common():
        print(f"{times:7} {words}")
