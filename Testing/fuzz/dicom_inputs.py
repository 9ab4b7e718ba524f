"""Hostile folders of DICOM, the same for the same seed: files that are damaged or lie, and folders that do."""

from __future__ import annotations

import os
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import dicom_seeds
from dicom_seeds import MARKER, Seed
from hostile_files import bytes_changed, structure_changed, values_changed

#: Folder of every input; nobody may be told its name.
FOLDER = f"{MARKER} Patient"


@dataclass
class HostileInput:
    """A folder to be read.

    :param what: what was done to it.
    :param files: content by path within the folder.
    :param folders: empty ones.
    :param links: from a path within the folder to where it points, as it is stored.
    :param pipes: names of pipes that nobody writes to.
    :param ct: paths that belong to one CT series.
    :param changed: paths of what was changed, which are read one by one; two others if there are none.
    """

    what: str
    files: dict[str, bytes]
    folders: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    pipes: list[str] = field(default_factory=list)
    ct: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def write(self, parent: Path) -> Path:
        """Make the folder; what this system cannot have is left out."""
        folder = parent / FOLDER
        folder.mkdir()
        for name in self.folders:
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.write_bytes(content)
            except (OSError, ValueError):  # a name that this system does not know
                continue
        for name, target in self.links.items():
            try:
                (folder / name).symlink_to(target)
            except (OSError, NotImplementedError):
                continue
        if hasattr(os, "mkfifo"):
            for name in dict.fromkeys(self.pipes):
                os.mkfifo(folder / name)
        return folder


def named(name: str, draw: random.Random) -> str:
    """A file's name with the marker: clinics name files after patients."""
    return f"{MARKER}_{name}" if draw.random() < 0.8 else f"{MARKER}_{name.removesuffix('.dcm')}"


def with_names(seed: Seed, draw: random.Random) -> dict[str, str]:
    """A marked name for each file of a seed."""
    return {name: named(name, draw) for name in seed.files}


def _one_file(seed: Seed, draw: random.Random, change: Callable[[str], tuple[bytes, str]]) -> HostileInput:
    """A seed of which one file, sometimes several, is changed."""
    names = with_names(seed, draw)
    first = next(iter(seed.files))
    victims = {first if draw.random() < 0.7 else draw.choice(sorted(seed.files))}
    if draw.random() < 0.1:
        victims = set(seed.files)
    files, done = dict(seed.files), []
    for victim in sorted(victims):
        files[victim], what = change(victim)
        done.append(what)
    made = {names[name]: content for name, content in files.items()}
    ct, changed = (tuple(names[name] for name in each) for each in (seed.ct, sorted(victims)))
    return HostileInput(f"{seed.name}; {'; '.join(done)}", made, ct=ct, changed=changed)


def _bytes(seed: Seed, draw: random.Random) -> HostileInput:
    return _one_file(seed, draw, lambda name: bytes_changed(seed.files[name], draw))


def _values(seed: Seed, draw: random.Random) -> HostileInput:
    def change(name: str) -> tuple[bytes, str]:
        file = dicom_seeds.tree(seed.name, name).copy()
        what = values_changed(file, draw)
        return file.to_bytes(), what

    return _one_file(seed, draw, change)


def _structure(seed: Seed, draw: random.Random) -> HostileInput:
    return _one_file(seed, draw, lambda name: structure_changed(dicom_seeds.tree(seed.name, name).copy(), draw))


def _folder(seed: Seed, draw: random.Random) -> HostileInput:
    names = with_names(seed, draw)
    made = HostileInput("", {names[name]: data for name, data in seed.files.items()}, ct=tuple(names[n] for n in seed.ct))
    done = []
    for _ in range(draw.choice((1, 2, 3))):
        change = draw.choice(FOLDERS)
        change(made, draw)
        done.append(change.__name__.strip("_").replace("_", " "))
    made.what = f"{seed.name}; folder: {', '.join(done)}"
    return made


def _empty_files(made: HostileInput, draw: random.Random) -> None:
    if not made.files:
        return
    for name in draw.sample(sorted(made.files), draw.randrange(1, len(made.files) + 1)):
        made.files[name] = b""


def _nothing_at_all(made: HostileInput, _draw: random.Random) -> None:
    made.files.clear()


def _folders_called_dcm(made: HostileInput, draw: random.Random) -> None:
    made.folders += [f"{MARKER}_{number}.dcm" for number in range(draw.choice((1, 30)))]


def _loops_of_links(made: HostileInput, draw: random.Random) -> None:
    made.folders.append("deep/er")
    loops = {
        "loop": ".",
        "deep/up": "..",
        "deep/er/top": "../..",
        "self": "self",
        "gone": "/nowhere/at/all",
        "one": "two",
        "two": "one",
    }
    for name in draw.sample(sorted(loops), draw.randrange(1, len(loops))):
        made.links[name] = loops[name]
    if made.files and draw.random() < 0.5:
        made.links["again.dcm"] = draw.choice(sorted(made.files))


def _links_to_devices(made: HostileInput, draw: random.Random) -> None:
    made.links["endless.dcm"] = draw.choice(("/dev/zero", "/dev/urandom", "/dev/null", "/dev/stdin", "/proc/self/mem"))


def _pipes(made: HostileInput, _draw: random.Random) -> None:
    made.pipes += ["pipe.dcm", "pipe"]


def _odd_names(made: HostileInput, draw: random.Random) -> None:
    odd = (
        f"{MARKER}\nname.dcm",
        f"{MARKER} \u202e患者.dcm",
        "-rf.dcm",
        f"{MARKER}\x1b[31m.dcm",
        "%s%n.dcm",
        "a" * 200 + ".dcm",
        "\udcff\udcfe.dcm",
    )
    for name in draw.sample(sorted(made.files), min(2, len(made.files))):
        new = draw.choice(odd)
        if new not in made.files:
            made.files[new] = made.files.pop(name)
            made.ct = tuple(new if each == name else each for each in made.ct)


def _another_patient(made: HostileInput, draw: random.Random) -> None:
    """The same slices of somebody else, with the same or other identifiers."""
    same_series = draw.random() < 0.3
    for name in list(made.ct or made.files):
        if name in made.files:
            data = made.files[name].replace(b"FUZZ-4711", b"FUZZ-4712").replace(b"FUZZ^PATIENT", b"FUZZ^ANOTHER")
            if not same_series:
                data = data.replace(dicom_seeds.ROOT.encode(), dicom_seeds.ROOT[:-1].encode() + b"2")
            made.files[f"other/{name}"] = data


def _copies(made: HostileInput, draw: random.Random) -> None:
    for number in range(draw.choice((1, 12))):
        for name in draw.sample(sorted(made.files), min(3, len(made.files))):
            made.files[f"copy {number}/{name}"] = made.files[name]


def _other_visits(made: HostileInput, draw: random.Random) -> None:
    """The slices again on other days, whole or not."""
    for number in range(draw.choice((1, 3))):
        date = draw.choice((b"19310303", b"        ", b"99999999", b"19310203"))
        for name in made.ct:
            if name in made.files and draw.random() < 0.9:
                data = made.files[name].replace(dicom_seeds.DATE.encode(), date)
                root = dicom_seeds.ROOT.encode()
                made.files[f"visit {number}/{name}"] = data.replace(root, root[:-1] + b"%d" % (3 + number))


def _slices_missing(made: HostileInput, draw: random.Random) -> None:
    for name in made.ct[: draw.randrange(1, 3)]:
        made.files.pop(name, None)


def _other_things(made: HostileInput, draw: random.Random) -> None:
    """What else lies in a folder of a clinic, whole and damaged, under names that promise DICOM or another format."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("slice.dcm", b"\0" * 200)
    nrrd = (
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 99999999\nencoding: raw\nspace: left-posterior-superior\n\n"
        + bytes(60)
    )
    nifti = b"\x5c\x01\0\0" + draw.randbytes(344) + b"n+1\0" + bytes(90)
    things = (
        *(
            archive.getvalue(),
            nrrd,
            nifti,
            b"%PDF-1.7\n",
            b"\xff\xd8\xff\xe0" + draw.randbytes(50),
            b"<html>",
            b"\x89PNG\r\n\x1a\n",
        ),
        *(
            b"DICM" * 40,
            bytes(128) + b"DICM",
            bytes(132),
            b"\x02\0" + draw.randbytes(300),
            b"\x08\0\x05\0CS",
            draw.randbytes(3000),
        ),
    )
    endings = (".dcm", ".dcm", "", ".nrrd", ".seg.nrrd", ".nii.gz", ".nii", ".mha", ".zip", ".ima", ".txt")
    for number in range(draw.choice((1, 3, 8))):
        made.files[f"{MARKER}_{number}{draw.choice(endings)}"] = draw.choice(things)
    if draw.random() < 0.3:
        made.files["DICOMDIR"] = draw.choice((draw.choice(sorted(made.files.items()))[1], b"", draw.randbytes(300)))


def _plain_visits(made: HostileInput, draw: random.Random) -> None:
    """Folders of visits with files of other formats that are none."""
    if draw.random() < 0.7:
        made.files.clear()
    for number in range(draw.choice((1, 2, 3))):
        day = draw.choice((f"{MARKER} visit {number}", f"1931-02-0{number + 1}", f"1931020{number + 1}", "99999999"))
        ending = draw.choice((".nrrd", ".nii.gz", ".mha", ".seg.nrrd"))
        made.files[f"{day}/ct{ending}"] = draw.choice(
            (b"", b"NRRD0004\n\n", draw.randbytes(400), b"\x1f\x8b" + draw.randbytes(90))
        )
        made.files[f"{day}/contours.seg.nrrd"] = draw.randbytes(100)


FOLDERS: tuple[Callable[[HostileInput, random.Random], None], ...] = (
    *(_empty_files, _nothing_at_all, _folders_called_dcm, _loops_of_links, _links_to_devices, _pipes, _odd_names),
    *(_another_patient, _copies, _other_visits, _slices_missing, _other_things, _other_things, _plain_visits),
)

FAMILIES: dict[str, Callable[[Seed, random.Random], HostileInput]] = {
    "bytes": _bytes,
    "values": _values,
    "structure": _structure,
    "folders": _folder,
}


def hostile_input(seed: int, number: int, family: str | None = None) -> HostileInput:
    """One input.

    :param number: which one; the same seed and number give the same input.
    :param family: one of :data:`FAMILIES`; by turns if None.
    """
    family = family or tuple(FAMILIES)[number % len(FAMILIES)]
    draw = random.Random(f"{seed} {family} {number}")
    known = dicom_seeds.seeds()
    # Real files are larger, and one in twelve is enough.
    real = [each for each in known if each.name.startswith("real")]
    made = [each for each in known if each not in real]
    return FAMILIES[family](draw.choice(real if real and draw.random() < 1 / 12 else made), draw)
