"""What is missing in Slicer's Python is told, and pip is never free to replace what is there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from P2SAMSlicerLib import packages
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.packages import missing_packages, pin_installed, pip_arguments
from packaging.version import Version


def test_in_a_complete_environment_nothing_is_missing() -> None:
    found = missing_packages()
    assert not found
    assert found.in_words() == ""


def test_absent_and_too_old_packages_are_named_with_what_is_wanted(tmp_path: Path) -> None:
    listed = tmp_path / "requirements.txt"
    listed.write_text("# a comment\n\nnumpy>=1\nno-such-package>=2\nscipy>=9999\nno-such>=1; python_version < '3'\n")
    assert missing_packages(listed).requirements == ("no-such-package>=2", "scipy>=9999")


def test_pytorch_is_told_apart_because_pip_must_not_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "PYTORCH", ("torch_that_is_not_there",))
    found = missing_packages()
    assert found
    assert found.pytorch == ("torch_that_is_not_there",)
    assert not [each for each in found.requirements if each.startswith("torch")]
    assert found.in_words() == "missing: torch_that_is_not_there"


def test_without_the_reader_of_requirements_all_are_given_to_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "requirements.txt"
    listed.write_text("# a comment\nnumpy>=1\n")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "packaging" else real(name))
    assert missing_packages(listed).requirements == ("numpy>=1",)


@pytest.mark.parametrize("content", [b"numpy>=>1\n", b"\xff\xfe"])
def test_a_damaged_list_is_refused(tmp_path: Path, content: bytes) -> None:
    listed = tmp_path / "requirements.txt"
    listed.write_bytes(content)
    with pytest.raises(InputError, match=r"requirements\.txt: cannot be read"):
        missing_packages(listed)


def test_every_installed_package_is_pinned_to_its_version(tmp_path: Path) -> None:
    pins = tmp_path / "pins.txt"
    pin_installed(pins)
    lines = pins.read_text().splitlines()
    assert f"numpy=={metadata.version('numpy')}" in lines
    assert len({line.partition("==")[0].lower().replace("_", "-") for line in lines}) == len(lines)


def test_what_pip_cannot_read_is_not_pinned_and_one_package_is_pinned_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One such line, and pip refuses the whole list."""
    found = ("first", "odd-1.0-custom build", "no_version", "A.b_c-2.0", "a-B.c-1.0", "dev-1.0.dev3", "local-2.5.1+cu121")
    for number, name in enumerate(found):
        info = tmp_path / str(number) / f"x{number}.dist-info"
        info.mkdir(parents=True)
        title, _, version = name.rpartition("-") if number not in (0, 1) else name.partition("-")
        lines = ["Metadata-Version: 2.1", f"Name: {title or name}", *([f"Version: {version}"] if version and title else [])]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / str(number)) for number in range(len(found))])
    pin_installed(tmp_path / "pins.txt")
    assert (tmp_path / "pins.txt").read_text().splitlines() == ["A.b_c==2.0", "dev==1.0.dev3", "local==2.5.1+cu121"]


def test_a_record_without_a_version_is_passed_over_however_the_reader_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package importlib_metadata takes the place of Python's own reader when anything imports it."""

    class Broken:
        @property
        def metadata(self) -> dict[str, str]:
            raise KeyError("Metadata field Name not present")

    real = list(metadata.distributions())
    monkeypatch.setattr(metadata, "distributions", lambda: iter([Broken(), *real]))
    pin_installed(tmp_path / "pins.txt")
    assert f"numpy=={metadata.version('numpy')}" in (tmp_path / "pins.txt").read_text().splitlines()


@given(st.tuples(st.integers(0, 99), st.integers(0, 9)), st.sampled_from(["", "a1", "rc2", ".post3", ".dev4", "b1.dev2", "-1"]))
def test_every_usual_version_is_pinned(numbers: tuple[int, int], end: str) -> None:
    version = f"{numbers[0]}.{numbers[1]}{end}"
    assert Version(version)
    assert packages._VERSION.fullmatch(version)
    assert packages._VERSION.fullmatch(f"{version}+local.7")


def test_pins_that_cannot_be_written_are_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"pins\.txt: cannot be written"):
        pin_installed(tmp_path / "no folder" / "pins.txt")


def test_a_bundle_without_wheels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no wheels"):
        pip_arguments(["numpy"], tmp_path / "pins.txt", tmp_path)


def wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    """A package of one empty file."""
    info = f"{name}-{version}.dist-info"
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (f"Requires-Dist: {needs}\n" if needs else "")
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "")
        file.writestr(f"{info}/METADATA", text)
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


def test_from_a_bundle_without_network_pip_adds_a_package_and_replaces_none(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    wheel(bundle, "bundled", "1.0")
    wheel(bundle, "bundled", "2.0")
    wheel(bundle, "added", "1.0", "bundled")
    wheel(bundle, "greedy", "1.0", "bundled>=2")
    venv.create(tmp_path / "python", with_pip=True, symlinks=sys.platform != "win32")
    python = tmp_path / "python" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

    def pip(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert pip("--no-index", "--find-links", str(bundle), "bundled==1.0").returncode == 0
    pins = tmp_path / "pins.txt"
    pins.write_text("bundled==1.0\n")
    assert pip(*pip_arguments(["added"], pins, bundle)).returncode == 0
    refused = pip(*pip_arguments(["greedy"], pins, bundle))
    assert refused.returncode != 0
    listed = subprocess.run([str(python), "-m", "pip", "list"], capture_output=True, text=True, timeout=300, check=True).stdout
    assert {"bundled 1.0", "added 1.0"} <= {" ".join(line.split()) for line in listed.splitlines()}
    assert "greedy" not in listed
