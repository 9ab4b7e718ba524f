"""Resources are found in the checkout, in Slicer and in a wheel, and a missing one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from P2SAMSlicerLib import resources
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.resources import resource_path


def test_the_catalogue_of_models_is_found_in_this_installation() -> None:
    assert resource_path("Models.json").is_file()


def test_the_packaged_copy_wins_over_the_one_beside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged, beside = tmp_path / "packaged", tmp_path / "beside"
    for folder in (packaged, beside):
        (folder / "Icons").mkdir(parents=True)
        (folder / "Icons" / "a.svg").write_text(folder.name)
    (beside / "only.txt").write_text("")
    monkeypatch.setattr(resources, "FOLDERS", (packaged, beside))
    assert resource_path("Icons/a.svg").read_text() == "packaged"
    assert resource_path("only.txt") == beside / "only.txt"


def test_a_missing_resource_is_named_in_one_line() -> None:
    with pytest.raises(InputError, match=r"Resources/Icons/absent\.svg: missing") as caught:
        resource_path("Icons/absent.svg")
    assert "\n" not in str(caught.value)
