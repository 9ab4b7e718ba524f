"""What is installed is what is in the checkout: CMake lists, dependencies, wheel, resources, light imports."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

# The type checker looks at the oldest Python, but runs in environments that have only the newer one's.
tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "P2SAMSlicer"
PYTHONS = ("3.10", "3.11", "3.12")
#: Slicer brings its own build of these, or the PyTorch extension installs them.
NOT_FOR_SLICER = {"torch", "torchvision", "simpleitk"}


def cmake_list(name: str) -> list[str]:
    """The entries of one ``set(NAME ...)`` in the module's CMakeLists.txt, as paths relative to the module."""
    text = re.sub(r"#.*", "", (MODULE / "CMakeLists.txt").read_text(encoding="utf-8"))
    found = re.search(rf"set\({name}\s([^)]*)\)", text)
    assert found, f"P2SAMSlicer/CMakeLists.txt sets no {name}"
    return found[1].replace("${MODULE_NAME}", "P2SAMSlicer").split()


def module_files() -> set[str]:
    """Every file of the Slicer module, relative to its folder, without what Python, pip and file managers leave there."""
    left = re.compile(r"(^|/)(__pycache__|[^/]*\.egg-info|\.[^/]*)(/|$)")
    files = {path.relative_to(MODULE).as_posix() for path in MODULE.rglob("*") if path.is_file()}
    return {path for path in files if not left.search(path)}


def library_files() -> set[str]:
    """Every Python file of the Slicer module, its panel and the library, relative to the module's folder."""
    return {path for path in module_files() if path.endswith(".py") and not path.startswith("Resources/")}


def resource_files() -> set[str]:
    """Every run-time resource, relative to the module's folder."""
    return {path for path in module_files() if path.startswith("Resources/")}


def as_cmake(paths: set[str]) -> str:
    """Missing entries as lines to paste."""
    return "\n".join(f"  {path}".replace("P2SAMSlicer", "${MODULE_NAME}", 1) for path in sorted(paths))


def pyproject() -> dict[str, Any]:
    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return settings


def requirements_in(path: Path) -> list[Requirement]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pins(python: str) -> dict[str, str]:
    """Name -> version that constraints.txt gives on one Python."""
    chosen: dict[str, str] = {}
    for requirement in requirements_in(ROOT / "constraints.txt"):
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        (only,) = requirement.specifier
        name = canonicalize_name(requirement.name)
        assert only.operator == "==", f"{requirement} is not an exact version"
        assert name not in chosen, f"{name} has two versions on Python {python}"
        chosen[name] = only.version
    return chosen


def python_in_new_process(code_or_module: list[str], path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the interpreter elsewhere, with nothing but ``path`` added to what is installed."""
    env = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *code_or_module], cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
    )


def checked(command: list[str], cwd: Path) -> None:
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]


# --- CMake


@pytest.mark.parametrize("name", ["MODULE_PYTHON_SCRIPTS", "MODULE_PYTHON_RESOURCES"])
def test_every_listed_file_exists_once_and_inside_the_module(name: str) -> None:
    listed = cmake_list(name)
    assert len(listed) == len(set(listed)), f"listed twice: {sorted({path for path in listed if listed.count(path) > 1})}"
    assert not [path for path in listed if ".." in Path(path).parts], "Slicer's install step drops files outside the module"
    missing = [path for path in listed if not (MODULE / path).is_file()]
    assert not missing, f"{name} lists what does not exist: {missing}"


def test_every_library_file_is_listed() -> None:
    missing = library_files() - set(cmake_list("MODULE_PYTHON_SCRIPTS"))
    assert not missing, f"add to MODULE_PYTHON_SCRIPTS in P2SAMSlicer/CMakeLists.txt:\n{as_cmake(missing)}"


def test_the_extension_holds_the_module_its_panel_and_the_library() -> None:
    listed = cmake_list("MODULE_PYTHON_SCRIPTS")
    assert {"P2SAMSlicer.py", "P2SAMSlicerGui/module_panel.py", "P2SAMSlicerLib/__init__.py"} <= set(listed)


def test_every_resource_file_is_listed() -> None:
    missing = resource_files() - set(cmake_list("MODULE_PYTHON_RESOURCES"))
    assert not missing, f"add to MODULE_PYTHON_RESOURCES in P2SAMSlicer/CMakeLists.txt:\n{as_cmake(missing)}"


def test_the_modules_folder_holds_nothing_that_is_not_installed() -> None:
    assert module_files() - library_files() - resource_files() == {"CMakeLists.txt"}


def test_slicer_runs_the_modules_self_test_where_it_builds_tests() -> None:
    text = re.sub(r"#.*", "", (MODULE / "CMakeLists.txt").read_text(encoding="utf-8"))
    assert re.search(r"if\(BUILD_TESTING\)\s+slicer_add_python_unittest\(SCRIPT \$\{MODULE_NAME\}\.py\)\s+endif\(\)", text)


def test_the_extension_describes_itself_in_literal_one_line_settings() -> None:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    found = dict(re.findall(r'^set\(EXTENSION_(\w+) "([^"$\n]*)"\)$', text, re.MULTILINE))
    assert list(found) == ["HOMEPAGE", "CATEGORY", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"]
    assert found["DEPENDS"] == "PyTorch"
    assert found["CATEGORY"]
    assert found["DESCRIPTION"].endswith(".")


# --- dependencies


def test_slicer_installs_what_the_library_depends_on_except_what_it_brings() -> None:
    dependencies = {canonicalize_name(r.name): r for r in map(Requirement, pyproject()["project"]["dependencies"])}
    assert set(dependencies) > NOT_FOR_SLICER
    expected = {str(requirement) for name, requirement in dependencies.items() if name not in NOT_FOR_SLICER}
    assert {str(requirement) for requirement in requirements_in(MODULE / "Resources" / "requirements.txt")} == expected


def imported_packages(folder: Path, leave_out: Path | None = None) -> dict[str, str]:
    """Top-level name of everything that is imported below a folder, also inside functions -> a file that imports it.

    :param leave_out: a folder in it whose files are not looked at.
    """
    found: dict[str, str] = {}
    for path in folder.rglob("*.py"):
        if leave_out is not None and path.is_relative_to(leave_out):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found.update({name.partition(".")[0]: path.name for name in names})
    own = {"P2SAMSlicerLib", *(path.stem for path in folder.rglob("*.py"))}
    return {name: path for name, path in found.items() if name not in own and name not in sys.stdlib_module_names}


@functools.cache
def modules_of(distribution: str) -> set[str]:
    """Top-level names that an installed distribution provides."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return set()
    return {file.parts[0].partition(".")[0] for file in files if file.suffix in (".py", ".so", ".pyd")}


@pytest.mark.parametrize(("folder", "extras"), [("P2SAMSlicer/P2SAMSlicerLib", ()), ("Testing", ("test",))])
def test_whatever_is_imported_is_a_declared_dependency(folder: str, extras: tuple[str, ...]) -> None:
    project = pyproject()["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    provided = {module for name in declared for module in modules_of(name)}
    # That part is for the scene of 3D Slicer, which brings these two.
    scene = ROOT / folder / "mrml"
    in_scene = imported_packages(scene) if folder.endswith("Lib") else {}
    found = imported_packages(ROOT / folder, scene if in_scene else None)
    found.update({name: file for name, file in in_scene.items() if name not in ("slicer", "vtk")})
    if found.get("itk") == "elastix.py":
        # The benchmark's peer, which the library does without where it is not installed.
        assert "itk-elastix" in {Requirement(line).name for line in project["optional-dependencies"]["test"]}
        del found["itk"]
    if folder.endswith("Lib"):
        # An extra, for one room of the house only.
        extra = {name for name in ("dask", "distributed", "pyarrow") if name in found}
        rooms = [path for path in (ROOT / folder).iterdir() if path.is_dir() and path.name != "cohort"]
        assert not [room.name for room in rooms if extra & set(imported_packages(room))]
        assert {Requirement(line).name for line in project["optional-dependencies"]["cohort"]} >= extra
        found = {name: file for name, file in found.items() if name not in extra}
    if folder == "Testing":
        # The host of the GUI tests, which makes the modules that exist only in Slicer, and the module that it loads.
        provided |= {"host", "qt", "ctk", "SampleData", "PyTorchUtils", "P2SAMSlicer"}
    undeclared = {name: file for name, file in found.items() if name not in provided}
    assert not undeclared, f"imported, but no dependency in pyproject.toml: {undeclared}"


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_a_tested_version_that_it_allows(python: str) -> None:
    project = pyproject()["project"]
    wanted = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    tested = pins(python)
    for requirement in map(Requirement, wanted):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            version = tested.get(canonicalize_name(requirement.name))
            assert version is not None, f"constraints.txt has no version of {requirement.name} for Python {python}"
            assert requirement.specifier.contains(version), f"{requirement} does not allow the tested {version}"


@pytest.mark.parametrize("python", PYTHONS)
def test_torch_is_the_one_that_the_tested_torchvision_was_built_for(python: str) -> None:
    tested = pins(python)
    if importlib.metadata.version("torchvision").partition("+")[0] != tested["torchvision"]:
        pytest.skip(f"the installed torchvision is not the tested {tested['torchvision']}")
    needs = [Requirement(line) for line in importlib.metadata.requires("torchvision") or []]
    (torch,) = (requirement for requirement in needs if requirement.name == "torch")
    assert torch.specifier.contains(tested["torch"])


# --- wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a source distribution that was built from a copy of the checkout.

    A copy, because a build leaves folders behind, and what an earlier build left would end up in this one.
    """
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(MODULE, source / "P2SAMSlicer", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    checked([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(source)], dist)
    (built,) = dist.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the checkout into which the wheel is installed, not editable."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    checked(pip, target)
    return target


def test_the_wheel_holds_every_library_file_and_resource(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    library = {path for path in library_files() if path.startswith("P2SAMSlicerLib/")}
    assert inside == library | {f"P2SAMSlicerLib/{path}" for path in resource_files()}, (
        "a new sub-package goes into [tool.setuptools] packages in pyproject.toml"
    )


def test_an_installed_wheel_finds_its_resources_from_any_folder(installed: Path, tmp_path: Path) -> None:
    code = (
        "from P2SAMSlicerLib.resources import resource_path; path = resource_path('Models.json'); "
        "print(path.resolve()); print(len(path.read_text(encoding='utf-8')))"
    )
    done = python_in_new_process(["-c", code], installed, tmp_path)
    assert done.returncode == 0, done.stderr
    path, length = done.stdout.split("\n")[:2]
    assert Path(path) == (installed / "P2SAMSlicerLib" / "Resources" / "Models.json").resolve()
    assert int(length) == len((MODULE / "Resources" / "Models.json").read_text(encoding="utf-8"))


def test_an_installed_wheel_tells_its_version(installed: Path, wheel: Path, tmp_path: Path) -> None:
    done = python_in_new_process(["-m", "P2SAMSlicerLib", "--version"], installed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert wheel.name.split("-")[1] in done.stdout.split()


def test_the_p2sam_command_of_an_installed_wheel_runs(installed: Path, tmp_path: Path) -> None:
    code = (
        "from importlib.metadata import distribution; import sys; sys.argv = ['p2sam', '--version']; "
        "(script,) = distribution('p2sam-slicer').entry_points; print(script.name); sys.exit(script.load()())"
    )
    done = python_in_new_process(["-c", code], installed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "p2sam"


# --- imports

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys

class OnlyNumpy:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "numpy", "P2SAMSlicerLib"}:
            raise ModuleNotFoundError(f"imports {name}")

sys.meta_path.insert(0, OnlyNumpy())
before = set(sys.modules)
package = importlib.import_module("P2SAMSlicerLib")
for module in pkgutil.walk_packages(package.__path__, "P2SAMSlicerLib."):
    if not module.name.endswith(".__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            sys.exit(f"{module.name}, when it is imported, {error}")
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - set(sys.stdlib_module_names)))
"""


def test_every_module_of_the_library_imports_with_nothing_but_numpy(tmp_path: Path) -> None:
    done = python_in_new_process(["-c", IMPORT_EVERYTHING], MODULE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["P2SAMSlicerLib", "numpy"]


# --- what else a user receives


def test_the_licence_is_the_verbatim_apache_2_0_text() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    # The hash of https://www.apache.org/licenses/LICENSE-2.0.txt.
    assert hashlib.sha256(text.encode()).hexdigest() == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert pyproject()["project"]["license"] == "Apache-2.0"


def test_the_icon_is_what_its_script_draws(tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "Testing" / "draw_icon.py"))["draw"](tmp_path / "icon.png")
    stored, drawn = (Image.open(path) for path in (ROOT / "P2SAMSlicer.png", tmp_path / "icon.png"))
    assert stored.size == (128, 128)
    assert stored.mode == "RGBA"
    difference = np.asarray(stored, dtype=float) - np.asarray(drawn, dtype=float)
    # Releases of matplotlib differ in the antialiasing of edges.
    assert np.abs(difference).mean() < 2.0


def test_the_module_shows_the_extensions_icon() -> None:
    # Slicer looks for the module's own icon there, and the Extension Index for the extension's at the root.
    module_icon = MODULE / "Resources" / "Icons" / "P2SAMSlicer.png"
    assert module_icon.read_bytes() == (ROOT / "P2SAMSlicer.png").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="needs bash")
def test_ci_runs_the_test_command_and_stops_at_the_first_fault() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert commands[:2] == ["set -euo pipefail", 'cd "$(dirname "${BASH_SOURCE[0]}")/.."']
    assert commands[-1] == "exec python3 dev.py test"
    assert [line for line in commands if "dev.py" in line or "pytest" in line] == commands[-1:]
