"""The demo: its data is fetched once and is what it should be; its figures are those of the files that it writes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_engine import Engine, errors_in, names_in
from P2SAMSlicerLib import cli, demo, demo_data
from P2SAMSlicerLib.demo_data import PYPI, package_sources
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.metrics import volumetric_dice
from P2SAMSlicerLib.progress import ProgressEvent
from P2SAMSlicerLib.result import Outcome, VisitResult
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.volume import Segment, Volume
from P2SAMSlicerLib.volume_file import read_volume, write_volume
from small_visits import PRIOR_GRID, ball, phantom, visit_result, without_contour

FILES = ["demo.json", "followup_ct.nii.gz", "followup_ct.seg.nrrd", "overlay.png", "prior.seg.nrrd", "prior_ct.nrrd"]
FILES += ["slices.csv", "summary.json", "truth.seg.nrrd"]

# --- data ------------------------------------------------------------------------------------------------------------------

CONTENT = {"lung2_image.nrrd": b"the CT", "lung2_label.nrrd": b"the label map"}


def write_package(path: Path, content: dict[str, bytes], links: Sequence[tuple[str, str]] = ()) -> Path:
    """A source package with these files in its data folder, and symbolic links as (name, target)."""
    with tarfile.open(path, "w:gz") as package:
        for name, data in content.items():
            member = tarfile.TarInfo(f"pyradiomics-3.0.1/data/{name}")
            member.size = len(data)
            package.addfile(member, io.BytesIO(data))
        for name, target in links:
            member = tarfile.TarInfo(f"pyradiomics-3.0.1/data/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            package.addfile(member)
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index in a folder, the only one that pip knows, with a small package in the place of the real one."""
    page = tmp_path / "index" / "pyradiomics"
    page.mkdir(parents=True)
    package = write_package(page / "pyradiomics-3.0.1.tar.gz", CONTENT)
    (page / "index.html").write_text(f'<a href="{package.name}">{package.name}</a>')
    monkeypatch.setattr(demo_data, "PACKAGE_SHA256", sha256(package.read_bytes()))
    monkeypatch.setattr(demo_data, "FILE_SHA256", {name: sha256(data) for name, data in CONTENT.items()})
    monkeypatch.setenv("P2SAM_CACHE_DIR", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "index").as_uri())
    return page


def test_the_data_is_fetched_once_and_then_comes_from_the_cache(index: Path, tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    files = demo_data.lung_ct(events.append)
    folder = tmp_path / "cache" / "pyradiomics-3.0.1"
    assert files == (folder / "lung2_image.nrrd", folder / "lung2_label.nrrd")
    assert [file.read_bytes() for file in files] == list(CONTENT.values())
    assert names_in(folder) == sorted(CONTENT)
    shutil.rmtree(index)
    assert demo_data.lung_ct() == files


def test_a_damaged_file_in_the_cache_is_fetched_again(index: Path) -> None:
    assert index.is_dir()
    image, label = demo_data.lung_ct()
    image.write_bytes(b"another CT")
    assert demo_data.lung_ct() == (image, label)
    assert image.read_bytes() == b"the CT"


def test_a_folder_of_packages_serves_as_well_as_an_index(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path / 'absent'} {index}")
    assert demo_data.lung_ct()[0].read_bytes() == b"the CT"


def test_another_package_under_that_name_is_refused_and_the_next_index_asked(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tmp_path / "good"
    shutil.copytree(index, good / "pyradiomics")
    write_package(index / "pyradiomics-3.0.1.tar.gz", {**CONTENT, "extra": b"evil"})
    with pytest.raises(InputError, match=r"could not be fetched .*\(the file there is not the expected one") as raised:
        demo_data.lung_ct()
    assert "\n" not in str(raised.value)
    assert str(tmp_path) not in str(raised.value)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", good.as_uri())
    assert demo_data.lung_ct()[0].read_bytes() == b"the CT"


def test_without_network_and_cache_one_line_says_what_to_do(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, own_threads: None
) -> None:
    del own_threads
    assert index.is_dir()
    # Port 1 of this machine: nobody answers there.
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:1/simple")
    assert cli.main(["demo", "--out", str(tmp_path / "out")]) == 2
    (line,) = errors_in(capsys.readouterr().err)
    assert "pyradiomics 3.0.1 could not be fetched from the package index (no connection? ConnectError)" in line
    assert "P2SAM_CACHE_DIR" in line
    assert "secret" not in line
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("content", "links"),
    [
        ({"lung2_image.nrrd": b"the CT"}, ()),
        ({**CONTENT, "lung2_label.nrrd": b"another"}, ()),
        ({"lung2_image.nrrd": b"the CT"}, (("lung2_label.nrrd", "/etc/passwd"),)),
    ],
    ids=["missing", "another file", "a link"],
)
def test_nothing_but_the_expected_files_is_taken_out_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, bytes], links: Sequence[tuple[str, str]]
) -> None:
    monkeypatch.setattr(demo_data, "FILE_SHA256", {name: sha256(data) for name, data in CONTENT.items()})
    package = write_package(tmp_path / "package.tar.gz", content, links)
    with pytest.raises(InputError, match=r"package\.tar\.gz: (is damaged|its lung2_label\.nrrd is not the expected file)"):
        demo_data.extract(package, tmp_path)


def test_a_package_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package.tar.gz", {"lung2_image.nrrd": os.urandom(20_000)})
    package.write_bytes(package.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"package\.tar\.gz: is damaged"):
        demo_data.extract(package, tmp_path)


def test_pip_s_configuration_is_honoured_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "pip.conf"
    lines = ["[global]", "index-url = https://a.example/simple", "trusted-host =", "    one.example", "    two.example"]
    lines += ["extra-index-url = https://b.example/simple", "[download]", "proxy = http://proxy.example:3128"]
    config.write_text("\n".join(lines))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment["PIP_CONFIG_FILE"] = str(config)
    sources = package_sources(environment)
    assert "https://b.example/simple" in sources.indexes
    assert sources.indexes[0] == "https://a.example/simple"
    assert sources.trusted_hosts == ("one.example", "two.example")
    assert sources.proxy == "http://proxy.example:3128"
    assert (
        package_sources({**environment, "PIP_INDEX_URL": "https://c.example/simple"}).indexes[0] == "https://c.example/simple"
    )
    assert package_sources({**environment, "PIP_NO_INDEX": "true"}).indexes == ()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    assert package_sources({}).indexes == (PYPI,)


def test_the_demo_ct_is_the_patient_that_it_claims_to_be(demo_ct: tuple[Path, Path]) -> None:
    ct, label = read_volume(demo_ct[0]), read_segmentation(demo_ct[1])
    assert ct.grid.shape == (61, 512, 512)
    assert ct.grid.spacing == pytest.approx((0.627, 0.627, 5.0), abs=1e-3)
    (tumour,) = label.segments
    assert label.grid.same_as(ct.grid)
    assert np.count_nonzero(tumour.mask) * ct.grid.voxel_ml == pytest.approx(48, abs=1)


# --- the demo --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_demo(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The demo on the small phantom, with the fake engine."""
    write_volume(phantom(PRIOR_GRID), tmp_path / "ct.nrrd")
    write_volume(Volume(ball(PRIOR_GRID, 10.0).astype(np.uint8), PRIOR_GRID), tmp_path / "label.nrrd")
    monkeypatch.setattr(demo_data, "lung_ct", lambda _progress: (tmp_path / "ct.nrrd", tmp_path / "label.nrrd"))
    monkeypatch.setattr(demo, "rigid_copy", lambda _prior, _mask, followup: np.asarray(followup.array > 70))
    return engine


def test_the_demo_writes_everything_and_its_figures_are_those_of_its_files(
    small_demo: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", "--out", str(tmp_path / "out"), "--seed", "5"]) == 0
    folder = tmp_path / "out"
    assert names_in(folder) == FILES
    record = json.loads((folder / "demo.json").read_text())
    truth = read_segmentation(folder / "truth.seg.nrrd").segments[0].mask
    contour, registered = (segment.mask for segment in read_segmentation(folder / "followup_ct.seg.nrrd").segments)
    contours = record["contours"]
    assert list(contours) == ["rigid copy", "registered prior contour", "P2SAM result"]
    assert contours["P2SAM result"]["volumetric_dice"] == volumetric_dice(contour, truth)
    assert contours["registered prior contour"]["volumetric_dice"] == volumetric_dice(registered, truth)
    assert record["simulation"]["change"] == demo.DEFAULT_CHANGE
    assert record["simulation"]["seed"] == 5
    printed = capsys.readouterr().out
    dice = f"{volumetric_dice(contour, truth):.3f}"
    assert re.search(rf"P2SAM result +{dice} ", printed)
    for words in ("One simulated second visit of one patient, site lung: no clinical claim", "NSCLC-Radiomics", "BSD-3"):
        assert words in printed
        assert words in json.dumps(record)
    assert f"picture: {folder / 'overlay.png'}" in printed
    assert f"written: {folder / 'summary.json'}" in printed
    ((prior, (carried,), followup, _),) = small_demo.calls
    assert np.array_equal(prior.array, phantom(PRIOR_GRID).array)
    assert np.array_equal(carried.mask, ball(PRIOR_GRID, 10.0))
    assert np.array_equal(followup.array, read_volume(folder / "followup_ct.nii.gz").array)


def test_a_second_demo_replaces_the_first_but_nothing_else(
    small_demo: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["demo", "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    assert cli.main([*arguments, "--change", "grow"]) == 0
    assert json.loads((tmp_path / "out" / "demo.json").read_text())["simulation"]["change"] == "grow"
    assert len(small_demo.calls) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "truth.seg.nrrd").write_text("mine")
    capsys.readouterr()
    assert cli.main(["demo", "--out", str(tmp_path / "mine")]) == 2
    message = "p2sam: error: truth.seg.nrrd: there already in the folder for the files; use --overwrite to replace"
    assert errors_in(capsys.readouterr().err) == [message]
    assert names_in(tmp_path / "mine") == ["truth.seg.nrrd"]


def test_a_demo_that_fails_leaves_nothing(small_demo: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_demo.faults["followup_ct"] = InputError("the CT shows no body")
    assert cli.main(["demo", "--out", str(tmp_path / "out")]) == 2
    assert errors_in(capsys.readouterr().err) == ["p2sam: error: demo: the CT shows no body"]
    assert not (tmp_path / "out").exists()


def test_a_tumour_that_vanished_is_shown_without_truth_and_result(small_demo: Engine, tmp_path: Path) -> None:
    def gone(segments: Sequence[Segment], followup: Volume) -> VisitResult:
        registered = np.asarray(followup.array > 20)
        results = [without_contour(each, Outcome.NO_LESION, "gone", registered_mask=registered) for each in segments]
        return visit_result(*results, grid=followup.grid)

    small_demo.answer = gone
    assert cli.main(["demo", "--out", str(tmp_path / "out"), "--change", "vanish"]) == 0
    assert names_in(tmp_path / "out") == [name for name in FILES if name != "truth.seg.nrrd"]
    contours = json.loads((tmp_path / "out" / "demo.json").read_text())["contours"]
    assert list(contours) == ["rigid copy", "registered prior contour"]
    assert contours["registered prior contour"]["empty"] == ["truth"]


def test_the_rigid_copy_follows_a_shifted_patient() -> None:
    prior = phantom(PRIOR_GRID)
    mask = ball(PRIOR_GRID, 10.0, (9.0, 6.0, 0.0))
    array = prior.array.copy()
    array[mask] = 300
    shifted = np.roll(array, (1, 2), axis=(1, 2))
    copy = demo.rigid_copy(Volume(array, PRIOR_GRID), mask, Volume(shifted, PRIOR_GRID))
    assert volumetric_dice(copy, np.roll(mask, (1, 2), axis=(1, 2))) > 0.9 > volumetric_dice(copy, mask)
