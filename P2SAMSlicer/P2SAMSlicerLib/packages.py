"""What the library needs in Slicer's Python, what of it is missing, and how pip adds it without changing what is there.

torch and torchvision come from Slicer's PyTorch extension and from nowhere else. Everything that is installed is pinned to its
version while pip runs, so that pip would rather fail than replace a package that Slicer or another extension brought.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.resources import resource_path

REQUIREMENTS = "requirements.txt"
#: What the PyTorch extension brings.
PYTORCH = ("torch", "torchvision")
#: Slicer has its own builds of these, some without the records that pip looks for: imported or absent, never installed.
SLICERS_OWN = ("SimpleITK",)
#: A version that pip understands (PEP 440); what reads versions properly is itself one of the packages that may be missing.
_VERSION = re.compile(
    r"v?(\d+!)?\d+(\.\d+)*([-_.]?(a|b|c|rc|alpha|beta|pre|preview)[-_.]?\d*)?(-\d+|[-_.]?(post|rev|r)[-_.]?\d*)?"
    r"([-_.]?dev[-_.]?\d*)?(\+[a-z0-9]+([-_.][a-z0-9]+)*)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class MissingPackages:
    """What is not there.

    :param pytorch: of torch and torchvision.
    :param slicers_own: what only a damaged Slicer lacks.
    :param requirements: what pip can add, as lines of a requirements file.
    """

    pytorch: tuple[str, ...]
    slicers_own: tuple[str, ...]
    requirements: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether anything is missing."""
        return bool(self.pytorch or self.slicers_own or self.requirements)

    def in_words(self) -> str:
        """One line for people; empty if nothing is missing."""
        names = [*self.pytorch, *self.slicers_own, *self.requirements]
        return f"missing: {', '.join(names)}" if names else ""


def missing_packages(requirements: Path | None = None) -> MissingPackages:
    """Look for what the library needs without importing any of it.

    :param requirements: the list; that of the module if None.
    :raises InputError: the list cannot be read.
    """
    return MissingPackages(
        tuple(name for name in PYTORCH if importlib.util.find_spec(name) is None),
        tuple(name for name in SLICERS_OWN if importlib.util.find_spec(name) is None),
        tuple(_missing(requirements or resource_path(REQUIREMENTS))),
    )


def check_packages() -> None:
    """Refuse to begin what would end with the name of a package that nobody knows.

    :raises InputError: packages are missing; the message names them.
    """
    lacking = missing_packages().in_words()
    if lacking:
        raise InputError(f"{lacking} (the module P2SAMSlicer installs them)")


def pip_arguments(requirements: Sequence[str], pins: Path, bundle: Path | None = None) -> list[str]:
    """Arguments of ``pip install`` that add packages and change none; see :func:`pin_installed`.

    :param pins: the file that :func:`pin_installed` wrote.
    :param bundle: folder with wheels for a computer without network; nothing is fetched then.
    :raises InputError: the folder holds no wheels.
    """
    if bundle is None:
        return ["--constraint", str(pins), *requirements]
    if not any(bundle.glob("*.whl")):
        raise InputError(f"{bundle.name}: the folder holds no wheels (.whl)")
    return ["--no-index", "--find-links", str(bundle), "--constraint", str(pins), *requirements]


def pin_installed(file: Path) -> None:
    """Write every installed package with its version as a constraint for pip.

    A package of which there are several versions on the path is pinned to the one that is imported (the first). One whose
    version pip cannot read is left out: pip would refuse the whole list, and cannot tell what to replace it with either.

    :raises OutputError: the file cannot be written.
    """
    pinned: dict[str, str] = {}
    for distribution in metadata.distributions():
        try:
            name, version = distribution.metadata["Name"], distribution.version
        except KeyError:  # what importlib_metadata says in the place of None, where another package has imported it
            continue
        if name and version and _VERSION.fullmatch(version):
            pinned.setdefault(re.sub("[-_.]+", "-", name).lower(), f"{name}=={version}")
    try:
        file.write_text("\n".join(sorted(pinned.values())) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{file.name}: cannot be written ({error.strerror})") from error


def _missing(path: Path) -> Iterator[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        # What reads requirements is itself one of them: without it nobody can tell, and pip looks at all.
        if importlib.util.find_spec("packaging") is None:
            yield from lines
            return
        folders = tuple(_folder_state(each) for each in sys.path)
        yield from (line for line in lines if not _installed(line, folders))
    except (OSError, ValueError) as error:  # a line that is no requirement is a ValueError, as is a wrong encoding
        raise InputError(f"{path.name}: cannot be read ({type(error).__name__}); install the extension again") from error


def _installed(line: str, folders: tuple[tuple[str, int], ...]) -> bool:
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    try:
        version = _version(requirement.name, folders)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


@lru_cache(maxsize=256)
def _version(name: str, _folders: tuple[tuple[str, int], ...]) -> str:
    """The version of a package. Its record is read once until some package comes or goes: the panel asks for the versions of
    all packages each time it is refreshed.

    :raises metadata.PackageNotFoundError: it is not installed.
    """
    return metadata.version(name)


def _folder_state(folder: str) -> tuple[str, int]:
    """A folder of packages, and when something in it came or went last; 0 for one that is not there."""
    try:
        return folder, Path(folder).stat().st_mtime_ns
    except OSError:
        return folder, 0
