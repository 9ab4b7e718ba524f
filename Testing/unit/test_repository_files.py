"""The files at the root that are read by others agree with the project: Extension Index entry, citation, public CI, guides."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from P2SAMSlicerLib import __version__
from packaging.specifiers import SpecifierSet
from test_packaging import MODULE, PYTHONS, library_files, pyproject, resource_files

ROOT = Path(__file__).resolve().parents[2]
#: Slicer's schema of an entry (Schemas/slicer-extension-catalog-entry-schema-v1.0.2.json): name -> type; others are refused.
ENTRY_FIELDS = {
    "$schema": str,
    "category": str,
    "scm_url": str,
    "scm_revision": str,
    "scm_type": str,
    "build_dependencies": list,
    "dicom_support_rule": str,
    "build_subdirectory": str,
    "enabled": bool,
    "tier": int,
}


def extension_settings() -> dict[str, str]:
    """What the root CMakeLists.txt says of the extension: ``EXTENSION_`` name -> text."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return dict(re.findall(r'^set\(EXTENSION_(\w+) "([^"]*)"\)$', text, re.MULTILINE))


def guide() -> str:
    return (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


# --- Extension Index


@pytest.fixture(scope="module")
def entry() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((ROOT / "P2SAMSlicer.json").read_text(encoding="utf-8"))
    return read


def test_the_index_entry_fits_slicers_schema(entry: dict[str, Any]) -> None:
    assert {name: type(value) for name, value in entry.items()} == {name: ENTRY_FIELDS.get(name) for name in entry}
    assert {"$schema", "category", "scm_url"} <= set(entry)
    assert entry["$schema"].endswith("/Schemas/slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert all(isinstance(name, str) for name in entry["build_dependencies"])
    assert entry["tier"] in (1, 3, 5)


def test_the_index_entry_bears_the_name_of_the_cmake_project(entry: dict[str, Any]) -> None:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    (name,) = re.findall(r"^project\((\w+)\)$", text, re.MULTILINE)
    assert (ROOT / f"{name}.json").is_file()
    assert entry["build_subdirectory"] == ".", "the extension has no inner build"


def test_the_index_entry_agrees_with_cmake(entry: dict[str, Any]) -> None:
    settings = extension_settings()
    assert entry["category"] == settings["CATEGORY"]
    assert entry["build_dependencies"] == settings["DEPENDS"].split()


def test_an_entry_without_an_address_is_said_to_be_unfit_for_submission(entry: dict[str, Any]) -> None:
    settings = extension_settings()
    homes = [entry["scm_url"], settings["HOMEPAGE"], settings["ICONURL"], settings["SCREENSHOTURLS"]]
    assert all(homes) or not any(homes), "fill in all addresses of the public home at once"
    assert all(address.startswith("https://") for text in homes for address in text.split())
    assert ("no public home" in guide()) == (not entry["scm_url"])


# --- citation


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return read


def test_the_citation_names_this_version_and_licence(citation: dict[str, Any]) -> None:
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation), "the format demands these"
    assert citation["title"] == "P2SAMSlicer"
    assert str(citation["version"]) == __version__
    assert citation["license"] == pyproject()["project"]["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in pyproject()["project"]["authors"]
    ]


def test_the_citation_and_the_readme_name_the_same_paper(citation: dict[str, Any]) -> None:
    (paper,) = citation["references"]
    cited = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Cite")[2]
    assert f"*{paper['title']}.* {paper['journal']}, {paper['year']}." in cited
    assert " and ".join(author["family-names"] for author in paper["authors"]) in cited
    assert paper["repository-code"].removeprefix("https://") in cited
    assert f"({paper['url']})" in cited


# --- public CI


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    read: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    return read


def test_the_public_ci_tests_every_supported_python(workflow: dict[Any, Any]) -> None:
    pythons = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    # Without quotes YAML reads 3.10 as 3.1.
    assert tuple(pythons) == PYTHONS
    allowed = SpecifierSet(pyproject()["project"]["requires-python"])
    assert [f"3.{minor}" for minor in range(20) if allowed.contains(f"3.{minor}")] == list(PYTHONS)


def test_the_public_ci_runs_the_test_command(workflow: dict[Any, Any]) -> None:
    # YAML 1.1 takes the key `on` for a truth value.
    assert {"push", "pull_request"} <= set(workflow[True])
    steps = workflow["jobs"]["test"]["steps"]
    (test,) = (step for step in steps if "dev.py" in step.get("run", ""))
    assert test["run"] == "python3 dev.py test"
    assert "if" not in test
    assert "continue-on-error" not in test
    (setup,) = (step for step in steps if step.get("uses", "").startswith("actions/setup-python@"))
    assert setup["with"]["python-version"] == "${{ matrix.python }}"


def test_the_public_ci_installs_the_same_libraries_of_the_system_as_the_projects_own(workflow: dict[Any, Any]) -> None:
    def packages(script: str) -> list[str]:
        line = next(line for line in script.replace("\\\n", " ").splitlines() if "apt-get install" in line)
        return [word for word in line.partition("apt-get install")[2].split() if not word.startswith("-")]

    (install,) = (step for step in workflow["jobs"]["test"]["steps"] if "apt-get" in step.get("run", ""))
    own = packages((ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert "libegl1" in own
    # Ubuntu has Chromium as a snap only; the runner brings a browser of its own, which gets that name.
    assert [*packages(install["run"]), "chromium"] == own
    assert "chromium" in install["run"]
    for script in (install["run"], (ROOT / ".ci" / "run").read_text(encoding="utf-8")):
        assert "REQUIRE_TOOLS=1" in script


def test_the_public_ci_may_fail_only_where_nothing_was_ever_tested(workflow: dict[Any, Any]) -> None:
    job = workflow["jobs"]["test"]
    matrix = job["strategy"]["matrix"]
    assert job["continue-on-error"] == "${{ matrix.untried }}"
    assert (matrix["os"], matrix["untried"]) == (["ubuntu-latest"], [False])
    assert {(extra["os"], extra["untried"]) for extra in matrix["include"]} == {
        ("macos-latest", True),
        ("windows-latest", True),
    }
    assert {extra["python"] for extra in matrix["include"]} <= set(PYTHONS)


# --- guide


def test_the_guide_names_files_that_exist() -> None:
    names = set(re.findall(r"`((?:\.?\w[\w.-]*/)*\.?[\w-]+\.(?:py|md|json|txt|toml|yml|cff|png))`", guide()))
    assert {"CITATION.cff", "P2SAMSlicer.json", "CMakeLists.txt"} <= names
    # The module comes with the panel; errors.py and constraints lie where ARCHITECTURE.md says.
    places = (ROOT, ROOT / "P2SAMSlicer" / "P2SAMSlicerLib")
    assert not {name for name in names - {"P2SAMSlicer.py"} if not any((place / name).is_file() for place in places)}


def test_the_guide_forbids_patient_data_before_anything_else() -> None:
    assert guide().partition("\n\n")[2].startswith("**Never commit patient data**")


# --- where things are


def rows_of_the_house(text: str) -> list[str]:
    """Every file that a table of ARCHITECTURE.md has in its first column, relative to the root; twice if it is there twice."""
    files, folder = [], ""
    for line in text.splitlines():
        heading = re.match(r"\| file \(in (?:`([^`]+)`|the root)\) \|", line)
        if heading:
            folder = f"{heading[1]}/" if heading[1] else ""
        elif not line.startswith("|"):
            folder = "no table of files"
        elif folder != "no table of files" and not line.startswith("|---"):
            files += [folder + name for name in re.findall(r"`([^`]+)`", line.split("|")[1])]
    return files


def files_that_want_a_row() -> set[str]:
    """All code and resources but files of tests, which bear their subject's name, and the ``__init__.py`` of packages."""
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "Testing").rglob("*.py")} | {"dev.py"}
    installed = {f"{MODULE.name}/{path}" for path in library_files() | resource_files()}
    return {path for path in code | installed if not re.search(r"(^|/)(test_\w+|__init__)\.py$", path)}


def faults_of_the_house(text: str) -> list[str]:
    rows = rows_of_the_house(text)
    twice = [f"{path}: has two rows" for path in sorted(set(rows)) if rows.count(path) > 1]
    gone = [f"{path}: has a row and does not exist" for path in sorted(set(rows)) if not (ROOT / path).is_file()]
    return twice + gone + [f"{path}: has no row" for path in sorted(files_that_want_a_row() - set(rows))]


@pytest.fixture(scope="module")
def house() -> str:
    return (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_the_architecture_has_one_row_for_every_file_and_none_for_files_that_are_gone(house: str) -> None:
    assert len(rows_of_the_house(house)) > 200
    assert not faults_of_the_house(house)


def test_a_row_that_is_taken_away_or_misspelt_or_doubled_is_noticed(house: str) -> None:
    for path in ("P2SAMSlicerLib/clinical.py", "P2SAMSlicerGui/run_panel.py", "Resources/UI/P2SAMSlicer.ui"):
        name = path.partition("/")[2] if not path.startswith("Resources") else f"P2SAMSlicer/{path}"
        assert f"P2SAMSlicer/{path}: has no row" in faults_of_the_house(house.replace(f"`{name}`", "", 1))
        changed = faults_of_the_house(house.replace(f"`{name}`", f"`old_{name}`", 1))
        assert any("does not exist" in fault for fault in changed)
        assert any(
            "has two rows" in fault for fault in faults_of_the_house(house.replace(f"`{name}`", f"`{name}`, `{name}`", 1))
        )
