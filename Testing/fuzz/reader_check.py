"""All readers on one hostile folder: whatever is not an answer, or a refusal in one line that names nobody, is a finding."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dicom_seeds
import numpy as np
from dicom_inputs import HostileInput
from P2SAMSlicerLib.dicom.folder_index import index_folder
from P2SAMSlicerLib.dicom.indexed_series import SeriesKind
from P2SAMSlicerLib.dicom.read_contours import ReadContours, segments_from
from P2SAMSlicerLib.dicom.seg_reader import read_dicom_seg
from P2SAMSlicerLib.dicom.series import read_ct_series
from P2SAMSlicerLib.dicom.structure_set_reader import read_structure_set
from P2SAMSlicerLib.errors import P2SAMError, one_line
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.patient.visits import find_visits
from P2SAMSlicerLib.progress import ProgressEvent
from P2SAMSlicerLib.volume import Volume
from P2SAMSlicerLib.volume_header import short_name

#: Longest that one reader may take of the processor: three times what a bomb at the readers' bounds takes on an idle one. Other
#: inputs take milliseconds.
SECONDS = 10.0
#: Longest line that may be told.
LONGEST_MESSAGE = 2000
GRID = Grid(
    (dicom_seeds.SLICES, dicom_seeds.SIZE, dicom_seeds.SIZE), (2.0, 2.0, 3.0), (-7.0, -7.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1)
)
#: At most so many files of an input are read as contours one by one.
MOST_FILES = 2


class TooSlowError(BaseException):
    """A reader takes longer than it may. No Exception, so that no reader takes it for damage."""


@dataclass(frozen=True)
class Finding:
    """What a reader should not have done.

    :param kind: such as ``identity``, ``slow``, or the name of an exception.
    """

    kind: str
    reader: str
    detail: str


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End what takes longer of the processor, or six times as long of the clock, where the system can (POSIX)."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(_number: int, _frame: object) -> None:
        raise TooSlowError

    timers = ((signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, 6 * seconds))
    before = [signal.signal(number, ring) for _, number, _ in timers]
    for timer, _, length in timers:
        signal.setitimer(timer, length)
    try:
        yield
    finally:
        for timer, _, _ in timers:
            signal.setitimer(timer, 0.0)
        for (_, number, _), handler in zip(timers, before, strict=True):
            signal.signal(number, handler)


class Overheard(logging.Handler):
    """What libraries log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class ReaderCheck:
    """Readers on one folder.

    :ivar findings: what they should not have done.
    :ivar answers: how often each reader answered and refused.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.answers: dict[str, int] = {}
        self.slowest = 0.0
        self._secrets = dicom_seeds.secrets()

    def run(self, made: HostileInput, folder: Path) -> None:
        """All readers, as the tool calls them and on the changed files one by one."""
        overheard = Overheard()
        logging.getLogger().addHandler(overheard)
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                self._read(made, folder)
        finally:
            logging.getLogger().removeHandler(overheard)
        self._judge_words("log or warning", "any", [*overheard.lines, *(str(each.message) for each in told)])

    def _read(self, made: HostileInput, folder: Path) -> None:
        steps: list[ProgressEvent] = []
        index = self._ask("index_folder", lambda: index_folder(folder, steps.append))
        self._judge_words("identity", "index_folder", [*(str(each) for each in steps), *(index.left_aside if index else ())])
        series = [each.paths for each in index.of_kind(SeriesKind.CT)][:3] if index else []
        # Also when the index leaves them aside: a script may name them.
        own = tuple(folder / name for name in made.ct)
        volume, reference = Volume(np.zeros(GRID.shape, dtype=np.int16), GRID, "visit_1"), None
        for paths in {frozenset(each): each for each in (own, *series)}.values():
            found = self._ask("read_ct_series", partial(read_ct_series, paths, "visit_1"))
            if found is None and len(paths) > 1:
                found = self._ask("read_ct_series", partial(read_ct_series, paths, "visit_1", resample=True))
            if found is not None:
                volume, reference = found.volume, found.reference
                self._judge_volume(volume)
        for name in [each for each in made.changed or made.files if each in made.files][:MOST_FILES]:
            self._contours(folder / name, volume, reference)
        visits = self._ask("find_visits", lambda: find_visits(folder, steps.append))
        self._judge_words("identity", "find_visits", [*map(str, steps), *(each.label for each in visits or ())])

    def _contours(self, path: Path, volume: Volume, reference: Any) -> None:
        grid = volume.grid
        structures = self._ask("read_structure_set", lambda: read_structure_set(path, grid, reference))
        for found in (structures, self._ask("read_dicom_seg", lambda: read_dicom_seg(path))):
            if found is not None:
                self._judge_contours(found)
        # A file that is no DICOM is called by its name, which the caller gave and knows; patient.visit_ct takes it out.
        own = (path.name, short_name(path))
        answer = self._ask("segments_from", lambda: segments_from(path, volume, reference, ()), own)
        if answer is not None:
            segments, words = answer
            self._judge_words("identity", "segments_from", words, own)
            if any(each.mask.shape != grid.shape or not each.mask.any() for each in segments):
                self._found("wrong answer", "segments_from", "a mask of another shape than the CT's, or empty")

    def _ask(self, reader: str, read: Callable[[], Any], known: Sequence[str] = ()) -> Any:
        """What a reader answers; None for a refusal, and for what is no answer.

        :param known: names that the reader may tell.
        """
        started = time.process_time()
        outcome, answer = "answered", None
        try:
            with time_limit(SECONDS):
                answer = read()
        except P2SAMError as error:
            outcome = "refused"
            self._judge_refusal(reader, str(error), known)
        except TooSlowError:
            outcome = "slow"
            self._found("slow", reader, f"more than {SECONDS:g} s of the processor")
        except (Exception, SystemExit) as error:
            outcome = "failed"
            self._found(type(error).__name__, reader, _where(error))
        self.answers[f"{reader} {outcome}"] = self.answers.get(f"{reader} {outcome}", 0) + 1
        self.slowest = max(self.slowest, time.process_time() - started)
        return answer

    def _judge_refusal(self, reader: str, message: str, known: Sequence[str]) -> None:
        if not message.strip() or len(message.splitlines()) != 1 or len(message) > LONGEST_MESSAGE:
            self._found("not one line", reader, repr(message[:200]))
        if any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in message):
            self._found("unprintable", reader, repr(message[:200]))
        self._judge_words("identity", reader, [message], known)

    def _judge_words(self, kind: str, reader: str, lines: list[str], known: Sequence[str] = ()) -> None:
        for line in lines:
            for name in known:
                line = line.replace(one_line(name), "")
            told = [each for each in self._secrets if each in line]
            if told:
                self._found(kind, reader, repr(line[:300]))

    def _judge_volume(self, volume: Volume) -> None:
        self._judge_words("identity", "read_ct_series", [*volume.warnings, volume.name])
        if volume.array.shape != volume.grid.shape or not np.isfinite(volume.array).all():
            self._found("wrong answer", "read_ct_series", "voxels that are no numbers, or not as many as the grid has")
        if not np.isfinite(volume.grid.index_to_physical).all() or min(volume.grid.spacing) <= 0:
            self._found("wrong answer", "read_ct_series", "a grid that is none")

    def _judge_contours(self, found: ReadContours) -> None:
        self._judge_words("identity", "contours", list(found.warnings))
        grid = found.segmentation.grid
        if not np.isfinite(grid.index_to_physical).all() or min(grid.spacing) <= 0:
            self._found("wrong answer", "contours", "a grid that is none")
        if any(each.mask.shape != grid.shape or not each.mask.any() for each in found.segmentation.segments):
            self._found("wrong answer", "contours", "a mask of another shape than its grid, or empty")

    def _found(self, kind: str, reader: str, detail: str) -> None:
        self.findings.append(Finding(kind, reader, detail))


def _where(error: BaseException) -> str:
    """Where in the library an exception came from, and what it says."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if "P2SAMSlicerLib" in file.parts:
            place = f"{file.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{place}: {str(error)[:200]}"
