"""The whole engine with real weights on real CTs whose second visit is simulated: every step, no stub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.metrics import volumetric_dice
from P2SAMSlicerLib.propagation import propagate
from P2SAMSlicerLib.resample import segments_on_grid
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.volume_file import read_volume

pytestmark = pytest.mark.slow

VisitCase = Callable[[str], Path]


def peers(case: Path, method: str) -> float:
    return float(json.loads((case.parent / "peers.json").read_text())["cases"][case.name][method]["dice"])


# Minutes. Shorter: slices of this limb in test_propagation_geometry.py; a model that knows boxes only in
# test_propagation_record.py.
@pytest.mark.long
def test_a_stable_limb_tumour_is_carried_better_than_by_rigid_registration(visit_case: VisitCase, lite_medsam: Any) -> None:
    case = visit_case("limb_f_stable")
    prior, followup = read_volume(case / "prior_ct.nii.gz"), read_volume(case / "followup_ct.nii.gz")
    segments, _ = segments_on_grid(read_segmentation(case / "prior_seg.nii.gz"), None, prior.grid)
    truth = segments_on_grid(read_segmentation(case / "followup_seg.nii.gz"), None, followup.grid)[0][0].mask

    visit = propagate(lite_medsam, prior, segments, followup)

    segment = visit.segments[0]
    assert visit.grid == followup.grid
    assert segment.mask is not None
    assert segment.mask.shape == followup.array.shape
    assert segment.outcome is Outcome.FOUND, segment.reasons
    dice = volumetric_dice(segment.mask, truth)
    assert dice > peers(case, "rigid")
    assert dice > volumetric_dice(segment.registered_mask, truth) - 0.02
    origins = {c.origin for s in segment.slices for c in s.candidates}
    assert {"registered contour", "box x1", "parts 1, negatives 1 + box", "parts 2, negatives 1 + box"} <= origins
    assert not any(origin.startswith("parts") and not origin.endswith("+ box") for origin in origins)


# Minutes. Shorter: the command line on small visits in test_cli_propagate.py; the default model in test_module_real_worker.py.
@pytest.mark.long
def test_a_shrinking_lung_tumour_is_followed_from_the_command_line_and_evaluated(visit_case: VisitCase, tmp_path: Path) -> None:
    case = visit_case("lung_i_shrink")
    out = tmp_path / "out"
    arguments = ["propagate", "--prior-ct", str(case / "prior_ct.nii.gz"), "--prior-seg", str(case / "prior_seg.nii.gz")]
    arguments += ["--followup-ct", str(case / "followup_ct.nii.gz"), "--out", str(out), "--device", "cpu"]

    assert main(arguments) == 0

    summary = json.loads((out / "summary.json").read_text())
    segment = summary["followups"][0]["segments"][0]
    assert segment["outcome"] in ("found", "flagged")
    assert segment["volume_change_percent"] < -10  # the tumour lost more than half of its volume
    result = read_segmentation(out / "followup_ct.seg.nrrd")
    assert result.grid.same_as(read_volume(case / "followup_ct.nii.gz").grid)
    figures = tmp_path / "figures.json"
    name = result.names()[0]
    command = ["evaluate", "--result", str(out / "followup_ct.seg.nrrd"), "--segment", name]
    assert main([*command, "--truth", str(case / "followup_seg.nii.gz"), "--json", str(figures)]) == 0
    truth = segments_on_grid(read_segmentation(case / "followup_seg.nii.gz"), None, result.grid)[0][0].mask
    dice = volumetric_dice(result.segments[0].mask, truth)
    assert dice > max(peers(case, "rigid"), peers(case, "elastix_bspline")) + 0.08
    assert dice > volumetric_dice(result.segments[1].mask, truth) + 0.08  # the registered contour beside it
    measured = json.loads(figures.read_text())["comparisons"][0]
    assert measured["volumetric_dice"] == pytest.approx(dice, abs=1e-6)
    assert measured["hd95_mm"] > 0
