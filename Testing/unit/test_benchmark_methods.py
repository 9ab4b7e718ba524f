"""The benchmark's methods on a small body: each gives the contour that its definition promises."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.benchmark import elastix
from P2SAMSlicerLib.benchmark.accuracy import AccuracyOptions, measure_accuracy
from P2SAMSlicerLib.benchmark.boxed import box_contour
from P2SAMSlicerLib.benchmark.case_contours import CaseContours, own_contours
from P2SAMSlicerLib.benchmark.cases import CaseData
from P2SAMSlicerLib.benchmark.methods import METHODS, NEED_ELASTIX
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.propagation import propagate
from P2SAMSlicerLib.resample import resample_mask
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation, Volume
from P2SAMSlicerLib.volume_file import write_volume
from small_body import GRID, LESION_AT, body, dice, ellipsoid, prior_visit, stored, stored_array
from stub_model import BrightnessModel

STILL = PropagationOptions(registration="none")
TRUE = ellipsoid(GRID, radii=(12.0, 10.0, 17.0))
OWN = tuple(method for method in METHODS if method not in NEED_ELASTIX)


def case() -> CaseData:
    """A lesion that shrank where it lies."""
    prior, segment = prior_visit()
    return CaseData(prior, segment, replace(body([TRUE]), name="followup"), TRUE)


@pytest.fixture(scope="module")
def found() -> CaseContours:
    return own_contours(BrightnessModel(), case(), OWN, STILL)


def test_every_method_gives_a_contour_and_those_that_are_timed_say_so(found: CaseContours) -> None:
    assert set(found.contours) == set(OWN)
    for method, each in found.contours.items():
        assert each.mask.shape == GRID.shape
        assert (each.seconds is None) == (method in ("persam", "p2sam-fixed", "p2sam-retrieval")), method
        assert (each.outcome is not None) == (method in ("paper", "clinical")), method


def test_clinical_mode_is_what_propagate_gives_and_the_registered_contour_its_own(found: CaseContours) -> None:
    data = case()
    result = propagate(BrightnessModel(), data.prior, [data.segment], data.followup, STILL).segments[0]
    assert np.array_equal(found.contours["clinical"].mask, np.asarray(result.mask))
    assert np.array_equal(found.contours["registered"].mask, result.registered_mask)
    assert found.contours["clinical"].outcome == result.outcome.value
    assert [each.index for each in found.slices] == [each.index for each in result.slices]


def test_where_nothing_moves_copy_and_registered_contour_are_the_prior_contour(found: CaseContours) -> None:
    mask = case().segment.mask
    assert np.array_equal(found.contours["copy"].mask, mask)
    assert dice(found.contours["registered"].mask, mask) > 0.98


@pytest.mark.parametrize("method", ["box", "persam", "p2sam-fixed", "p2sam-retrieval"])
def test_what_the_model_answers_follows_a_lesion_that_shrank(found: CaseContours, method: str) -> None:
    assert dice(found.contours[method].mask, TRUE) > dice(found.contours["registered"].mask, TRUE) + 0.02


def test_methods_that_are_not_asked_for_are_not_run() -> None:
    model = BrightnessModel()
    assert set(own_contours(model, case(), ["copy"], STILL).contours) == {"copy"}
    assert model.encoded == 0


@pytest.mark.usefixtures("own_threads")
def test_a_run_judges_the_choice_and_the_order_of_the_slices_of_clinical_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = case(), tmp_path / "lung_small"
    folder.mkdir()
    write_volume(data.prior, folder / "prior_ct.nii.gz")
    write_volume(data.followup, folder / "followup_ct.nii.gz")
    write_segmentation(Segmentation(GRID, (data.segment,)), folder / "prior_seg.seg.nrrd")
    write_segmentation(Segmentation(GRID, (Segment("GTV", TRUE),)), folder / "followup_seg.seg.nrrd")
    monkeypatch.setattr("P2SAMSlicerLib.models.load_model", lambda *_, **__: BrightnessModel())
    monkeypatch.setattr(AccuracyOptions, "propagation", STILL)

    findings = measure_accuracy(AccuracyOptions(tmp_path, methods=("clinical", "registered")))

    assert not findings.failures
    assert [row.method for row in findings.rows] == ["registered", "clinical"]
    choice, ranking = findings.choices["lung_small"], findings.rankings["lung_small"]
    registered, clinical = (row.metrics.volumetric_dice for row in findings.rows)
    assert registered + 0.02 < choice.lesion_oracle_dice <= choice.slice_oracle_dice + 0.01
    assert choice.chosen_dice == pytest.approx(clinical, abs=0.1)
    in_truth = set(np.flatnonzero(TRUE.any(axis=(1, 2))))
    assert in_truth <= {each.index for each in ranking}
    assert in_truth <= {each.index for each in choice.slices}


def test_a_box_is_asked_for_on_every_slice_of_every_lesion_in_any_stored_order() -> None:
    first, second = ellipsoid(GRID, LESION_AT, (9.0, 9.0, 9.0)), ellipsoid(GRID, (-30.0, -20.0, -30.0), (9.0, 9.0, 9.0))
    followup, both = body([first, second]), first | second
    model = BrightnessModel()
    contour = box_contour(model, followup, both, 25.0)
    assert model.decoded == sum(int(mask.any(axis=(1, 2)).sum()) for mask in (first, second))
    assert dice(contour, both) > 0.85
    order, flips = (2, 0, 1), (True, False, True)
    turned = np.asarray(stored_array(both, order, flips), dtype=np.bool_)
    again: BoolArray = box_contour(model, stored(followup, order, flips), turned, 25.0)
    assert np.array_equal(again, stored_array(contour, order, flips))
    assert not box_contour(model, followup, np.zeros_like(both), 25.0).any()


@pytest.mark.long  # with fewer resolutions below
@pytest.mark.skipif(not elastix.is_installed(), reason="itk-elastix is not installed")
@pytest.mark.filterwarnings("ignore:builtin type [Ss]wig:DeprecationWarning")
def test_elastix_brings_a_shifted_contour_back_with_its_default_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = elastix.settings()
    maps = [usual.GetParameterMap(number) for number in range(usual.GetNumberOfParameterMaps())]
    assert [each["Transform"][0] for each in maps] == ["EulerTransform", "BSplineTransform"]
    assert [each["NumberOfResolutions"][0] for each in maps] == ["4", "4"]
    assert float(maps[1]["FinalGridSpacingInPhysicalUnits"][0]) == 12.0
    # The default maps take minutes whatever the size of the images.
    usual.SetParameter("MaximumNumberOfIterations", "12")
    usual.SetParameter("NumberOfSpatialSamples", "500")
    monkeypatch.setattr(elastix, "settings", lambda: usual)
    monkeypatch.setattr(elastix, "_in_own_process", lambda work, *given: work(*given))
    prior, segment, moved = shifted_visit()
    found = elastix.register_with_elastix(prior, segment.mask, moved, 1)
    copied = resample_mask(segment.mask, prior.grid, moved.grid)
    assert dice(found.rigid, segment.mask) > max(0.9, dice(copied, segment.mask) + 0.1)
    assert dice(found.bspline, segment.mask) > 0.85


def shifted_visit() -> tuple[Volume, Segment, Volume]:
    """The prior, its segment, and the same body as a follow-up that lies elsewhere."""
    prior, segment = prior_visit()
    return prior, segment, replace(prior, grid=replace(prior.grid, origin=(-89.0 + 6.0, -79.0 - 5.0, -58.0)), name="followup")


def _answer(*given: Any) -> elastix.ElastixContours:
    _, mask, _, threads = given
    return elastix.ElastixContours(mask, ~mask, float(threads))


def _die(*_: Any) -> None:
    os.abort()


def _give_up(*_: Any) -> None:
    return None


def test_the_contours_of_elastix_come_back_from_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastix, "_register", _answer)
    prior, segment, moved = shifted_visit()
    found = elastix.register_with_elastix(prior, segment.mask, moved, 3)
    assert np.array_equal(found.rigid, segment.mask)
    assert np.array_equal(found.bspline, ~segment.mask)
    assert found.seconds == 3.0


@pytest.mark.parametrize(("work", "words"), [(_die, "the process of elastix ended"), (_give_up, "elastix could not register")])
def test_a_crash_of_elastix_costs_its_own_rows_only(monkeypatch: pytest.MonkeyPatch, work: Any, words: str) -> None:
    monkeypatch.setattr(elastix, "_register", work)
    prior, segment, moved = shifted_visit()
    with pytest.raises(InputError, match=f"followup: {words}"):
        elastix.register_with_elastix(prior, segment.mask, moved, 1)
