"""What the engine refuses, in one line and before the model is asked: mix-ups, unusable volumes, masks, files, options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.propagation import propagate
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.volume import BoolArray, Segment, VisitIdentity, Volume
from small_body import GRID, body, ellipsoid, followup_of, prior_visit
from stub_model import BrightnessModel

STILL = PropagationOptions(registration="none")


def still(*lesions: BoolArray) -> Volume:
    """The body with these lesions, unmoved."""
    return replace(body(lesions), name="followup")


def refusal(*arguments: Any, model: Any = None) -> str:
    """The one line with which a call is refused; the model must not have been asked before."""
    model = model or BrightnessModel()
    with pytest.raises(InputError) as error:
        propagate(model, *arguments)
    text = str(error.value)
    assert text
    assert "\n" not in text
    assert model.encoded == 0
    return text


SOMEONE, OTHER = VisitIdentity("ID-1", "20240101"), VisitIdentity("ID-2", "20230101")


def test_another_patient_or_an_older_followup_is_refused_before_the_model_is_asked() -> None:
    prior, segment = prior_visit()
    followup = still(segment.mask)
    known = replace(prior, identity=SOMEONE)
    text = refusal(known, [segment], replace(followup, identity=OTHER), STILL)
    assert "ID-" not in text
    older = replace(followup, identity=VisitIdentity("ID-1", "20230101"))
    assert "before" in refusal(known, [segment], older, STILL)


def test_an_override_is_recorded_in_the_result_and_flags_every_segment() -> None:
    prior, segment = prior_visit()
    followup = replace(still(segment.mask), identity=OTHER)
    options = replace(STILL, allow_other_patient=True, allow_older_followup=True)
    result = propagate(BrightnessModel(), replace(prior, identity=SOMEONE), [segment], followup, options)
    assert len(result.overrides) == 2
    assert result.segments[0].outcome is Outcome.FLAGGED
    assert set(result.overrides) <= set(result.segments[0].reasons)
    assert "ID-" not in str(result.overrides) + str(result.provenance)


@pytest.mark.parametrize("content", [None, "rubbish", ""])
def test_a_transform_file_that_cannot_be_used_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "bad.tfm"
    if content is not None:
        path.write_text(content)
    prior, segment = prior_visit()
    options = PropagationOptions(registration="file", transform_file=path)
    assert "bad.tfm" in refusal(prior, [segment], still(segment.mask), options)


def test_no_segment_is_refused() -> None:
    assert "segment" in refusal(prior_visit()[0], [], still(), STILL)


def test_an_empty_segment_is_refused_by_name() -> None:
    prior, segment = prior_visit()
    empty = Segment("CTV", np.zeros(GRID.shape, dtype=np.bool_))
    assert "'CTV'" in refusal(prior, [segment, empty], still(segment.mask), STILL)


def test_a_mask_off_the_grid_is_refused_by_name() -> None:
    prior, segment = prior_visit()
    assert "'GTV'" in refusal(prior, [replace(segment, mask=segment.mask[:-1])], still(segment.mask), STILL)


def test_a_mask_of_numbers_is_refused_by_name() -> None:
    prior, segment = prior_visit()
    numbers: Any = segment.mask.astype(np.uint8)
    assert "'GTV'" in refusal(prior, [replace(segment, mask=numbers)], still(segment.mask), STILL)


def test_a_voxel_that_is_lost_along_the_followups_axes_is_refused_by_name() -> None:
    coronal = Grid((40, 60, 90), (2.0, 2.0, 4.0), (-89.0, -79.0, 59.0), (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0))
    voxel = np.zeros(coronal.shape, dtype=np.bool_)
    voxel[14, 30, 50] = True
    prior = body([voxel], coronal)
    segments = [Segment("GTV", ellipsoid(coronal)), Segment("node", voxel)]
    assert "'node'" in refusal(prior, segments, followup_of("stable")[0], STILL)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("visit", ["prior", "followup"])
def test_a_ct_with_voxels_that_are_no_numbers_is_refused_by_name(visit: str, value: float) -> None:
    prior, segment = prior_visit()
    visits = {"prior": prior, "followup": still(segment.mask)}
    array = visits[visit].array.astype(np.float32)
    array[3, 4, 5] = value
    visits[visit] = replace(visits[visit], array=array)
    assert visit in refusal(visits["prior"], [segment], visits["followup"], STILL)


@pytest.mark.parametrize("visit", ["prior", "followup"])
def test_values_that_are_no_hounsfield_units_are_refused_by_name(visit: str) -> None:
    prior, segment = prior_visit()
    visits = {"prior": prior, "followup": still(segment.mask)}
    visits[visit] = replace(visits[visit], array=visits[visit].array + 1000)
    assert visit in refusal(visits["prior"], [segment], visits["followup"], STILL)


@pytest.mark.parametrize("visit", ["prior", "followup"])
def test_a_sheared_grid_is_refused_by_name(visit: str) -> None:
    prior, segment = prior_visit()
    visits = {"prior": prior, "followup": still(segment.mask)}
    sheared = replace(GRID, direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.3, 0.0, 0.0, 1.0))
    visits[visit] = replace(visits[visit], grid=sheared)
    text = refusal(visits["prior"], [segment], visits["followup"], STILL)
    assert visit in text
    assert "orthonormal" in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_parts": 0},
        {"negatives": ()},
        {"negatives": (-1,)},
        {"margin_mm": 0.0},
        {"margin_mm": float("nan")},
        {"margin_mm": float("inf")},
        {"plausible_mm": -1.0},
        {"plausible_mm": float("nan")},
        {"plausible_mm": 40.5},
        {"seed": -1},
        {"seed": 2**40},
        {"mode": "fancy"},
        {"modality": "mr"},
        {"registration": "magic"},
        {"registration": "file"},
        {"transform_file": Path("unused.tfm")},
    ],
    ids=lambda wrong: "-".join(f"{key}={value}" for key, value in wrong.items()),
)
def test_options_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    prior, segment = prior_visit()
    refusal(prior, [segment], still(segment.mask), replace(STILL, **wrong))
