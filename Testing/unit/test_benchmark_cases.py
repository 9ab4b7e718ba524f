"""Cases of a benchmark: what a folder must hold, what may be told of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmark_cases import write_case
from P2SAMSlicerLib.benchmark.cases import find_cases, read_case
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.volume import Segment, Segmentation
from small_visits import FOLLOWUP_GRID, PRIOR_GRID, ball


def test_cases_are_found_by_name_and_read_on_their_own_grids(tmp_path: Path) -> None:
    write_case(tmp_path / "b", change="grow", site="liver", patient="7")
    write_case(tmp_path / "a")
    (tmp_path / "notes").mkdir()
    cases = find_cases(tmp_path)
    assert [(case.name, case.change, case.site, case.patient) for case in cases] == [
        ("a", "unknown", "unknown", "a"),
        ("b", "grow", "liver", "7"),
    ]
    data = read_case(cases[1])
    assert data.prior.grid == PRIOR_GRID
    assert np.array_equal(data.segment.mask, ball(PRIOR_GRID, 10.0))
    assert np.array_equal(data.truth, ball(FOLLOWUP_GRID, 8.0))
    assert [case.name for case in find_cases(tmp_path, ["b", "b"])] == ["b"]


@pytest.mark.parametrize(
    ("name", "source", "site"), [("lung_i_grow", "PAT1", "lung"), ("thigh_a", "X", "sarcoma"), ("c", "STS_001", "sarcoma")]
)
def test_a_site_is_known_from_the_names_where_nothing_tells_it(tmp_path: Path, name: str, source: str, site: str) -> None:
    write_case(tmp_path / name, source=source, seed=1)
    (case,) = find_cases(tmp_path)
    assert (case.site, case.patient, case.simulated) == (site, source, True)


@pytest.mark.parametrize("change", ["shrink", "vanish"])
def test_a_case_that_simulate_made_can_be_measured(tmp_path: Path, change: str) -> None:
    own = write_case(tmp_path / "mine")
    ct, seg, out = own / "prior_ct.nii.gz", own / "prior_seg.seg.nrrd", tmp_path / "made" / "case"
    small = ["--shift-mm", "1", "--rotation-deg", "0", "--deform-mm", "0", "--spacing", "3", "3", "5"]
    assert main(["simulate", "--ct", str(ct), "--seg", str(seg), "--out", str(out), "--change", change, *small]) == 0
    (case,) = find_cases(tmp_path / "made")
    assert (case.change, case.simulated) == (change, True)
    assert read_case(case).truth.any() == (change != "vanish")


def test_a_case_without_truth_is_refused_unless_the_lesion_has_vanished(tmp_path: Path) -> None:
    write_case(tmp_path / "gone", truth_radius=0.0, change="vanish")
    assert not read_case(find_cases(tmp_path)[0]).truth.any()
    write_case(tmp_path / "lost", truth_radius=0.0, change="shrink")
    with pytest.raises(InputError, match="lost: the case has no followup_seg"):
        find_cases(tmp_path)


def test_of_several_structures_the_case_names_the_tumour(tmp_path: Path) -> None:
    folder = write_case(tmp_path / "case")
    both = (Segment("lung", ball(PRIOR_GRID, 20.0)), Segment("GTV", ball(PRIOR_GRID, 10.0)))
    write_segmentation(Segmentation(PRIOR_GRID, both), folder / "prior_seg.seg.nrrd")
    with pytest.raises(InputError, match=r"case: prior_seg\.seg\.nrrd holds several structures"):
        read_case(find_cases(tmp_path)[0])
    (folder / "case.json").write_text(json.dumps({"segment": "GTV"}))
    assert np.array_equal(read_case(find_cases(tmp_path)[0]).segment.mask, both[1].mask)


def test_unusable_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: not a folder"):
        find_cases(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no case"):
        find_cases(tmp_path)
    folder = write_case(tmp_path / "case")
    with pytest.raises(InputError, match="no case named 'other'; it has: case"):
        find_cases(tmp_path, ["other"])
    (folder / "case.json").write_text("[1]")
    with pytest.raises(InputError, match=r"case: case\.json holds no JSON object"):
        find_cases(tmp_path)
    (folder / "case.json").unlink()
    (folder / "prior_ct.nii.gz").unlink()
    with pytest.raises(InputError, match="case: the case has no prior_ct"):
        find_cases(tmp_path)
