"""A CBCT's values are brought to about HU, and the registration then finds a known motion in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from P2SAMSlicerLib.cbct_scale import approximate_hu, local_contrast
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.propagation import propagate
from P2SAMSlicerLib.registration import body_mask, register, to_image
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.volume import Segment, Volume
from P2SAMSlicerLib.volume_file import read_volume
from stub_model import BrightnessModel
from textured_phantom import Body, Motion, grid_around, scan, voxel_points

NAMES = ("prior", "followup")
BODY = Body()
PRIOR, LESION = scan(BODY, grid_around())
MOTION = Motion((2, -1.5, 3), (5, -4, 6))


def stored(hu: NDArray[Any], slope: float = 0.8, offset: float = 1024.0, cupping: float = 120.0, noise: float = 25.0) -> Any:
    """HU as a CBCT's unsigned 12-bit values: scaled and shifted, darker towards the middle, noisy."""
    _, ny, nx = hu.shape
    y, x = np.indices((ny, nx))
    radius = np.hypot(y / (ny - 1) - 0.5, x / (nx - 1) - 0.5) * 2
    dark = np.where(hu > -500, cupping * np.clip(1 - radius**2, 0, 1), 0.0)
    values = slope * (hu - dark) + offset + np.random.default_rng(7).normal(0, noise, hu.shape)
    return np.clip(np.rint(values), 0, 4095).astype(np.uint16)


def in_cylinder(values: NDArray[Any], padding: float, share: float = 1.0) -> NDArray[Any]:
    """Only what a circular field of view shows."""
    _, ny, nx = values.shape
    y, x = np.indices((ny, nx))
    outside = np.hypot(y - (ny - 1) / 2, x - (nx - 1) / 2) > share * min(ny, nx) / 2
    return np.where(outside, np.array(padding).astype(values.dtype), values)


def check_motion(followup: Volume, lesion: NDArray[np.bool_], limit_mm: float, kind: Any = "rigid") -> None:
    found = register(PRIOR, replace(followup, array=approximate_hu(followup.array)), LESION, kind, true_hu=False)
    points = voxel_points(followup.grid)[lesion.ravel()][::20]
    reached = np.array([found.transform.TransformPoint(point.tolist()) for point in points])
    assert np.linalg.norm(reached - MOTION(points), axis=1).max() < limit_mm
    assert len(found.starts) >= 5


@pytest.mark.parametrize(("slope", "offset"), [(0.8, 1024.0), (1.0, 0.0), (1.6, 1700.0), (0.05, 60.0)])
def test_air_and_tissue_come_to_their_places_whatever_the_scale(slope: float, offset: float) -> None:
    hu = PRIOR.array.astype(np.float64)
    found = approximate_hu(hu * slope + offset)
    assert found.dtype == np.int16
    assert found.shape == hu.shape
    for low, high, expected in ((-1050, -950, -1000), (-60, 140, 30)):
        among = (hu > low) & (hu < high)
        assert np.median(found[among]) == pytest.approx(expected, abs=80)
    # The order of values stays.
    assert np.corrcoef(found.ravel(), hu.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("padding", [-1024, -3024, -32768])
def test_padding_is_not_taken_for_air(padding: int) -> None:
    hu = in_cylinder(PRIOR.array, padding, 0.98)
    inside = hu != padding
    found = approximate_hu(hu)
    np.testing.assert_allclose(found[inside], approximate_hu(PRIOR.array)[inside], atol=60)
    assert found[~inside].max() <= -900


def test_a_field_of_view_within_the_body_keeps_its_scale() -> None:
    """There is no air to go by; fat and muscle must not be torn apart to air and tissue."""
    hu = np.where(np.random.default_rng(0).random((6, 40, 40)) < 0.4, -100.0, 40.0)
    hu += np.random.default_rng(1).normal(0, 40, hu.shape)
    found = approximate_hu(hu + 1024)
    assert found.std() == pytest.approx(hu.std(), rel=0.05)
    assert abs(np.median(found)) < 100
    padded = in_cylinder(hu + 1024, 0.0)
    outside = padded == 0
    assert approximate_hu(padded)[outside].max() < -800
    assert abs(np.median(approximate_hu(padded)[~outside])) < 100


def test_a_known_rigid_shift_is_found_in_a_cbct() -> None:
    followup, lesion = scan(BODY, grid_around(spacing=(2.6, 2.6, 3.2)), MOTION, 2)
    cbct = replace(followup, array=stored(followup.array))
    assert cbct.array.min() >= 0
    for kind in ("rigid", "deformable"):
        check_motion(cbct, lesion, 2.0, kind)


def test_a_known_rigid_shift_is_found_in_a_short_cylinder_without_air_around_the_body() -> None:
    """The bore is narrower than the patient, and the scan shorter than the CT."""
    followup, lesion = scan(BODY, grid_around(0.0, 75.0, (2.6, 2.6, 3.0), 62.0), MOTION, 2)
    check_motion(replace(followup, array=in_cylinder(stored(followup.array), 0)), lesion, 2.5)


def test_local_contrast_knows_neither_zero_nor_scale_nor_cupping_and_keeps_edges() -> None:
    image = to_image(PRIOR)
    inside = sitk.GetArrayFromImage(body_mask(image)) > 0
    plain = sitk.GetArrayFromImage(local_contrast(image, -400.0))
    # Compared where tissue is: at its border the threshold itself is another.
    inside &= PRIOR.array > -200
    for change in (PRIOR.array + 60.0, 1.2 * PRIOR.array, (stored(PRIOR.array, noise=0.0) - 1024.0) / 0.8):
        other = to_image(replace(PRIOR, array=np.asarray(change)))
        changed = sitk.GetArrayFromImage(local_contrast(other, -400.0))
        assert np.corrcoef(plain[inside], changed[inside])[0, 1] > 0.97
        assert np.abs(changed - plain)[inside].mean() < 0.25 * plain[inside].std()
    assert plain[inside].std() > 30
    assert np.abs(plain).max() <= 300


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param("thigh_b_partial", marks=pytest.mark.long), "lung_i_partial"])
def test_in_a_simulated_cbct_of_a_real_ct_the_deformable_step_helps_instead_of_pulling_tissue_away(
    visit_case: Callable[[str], Path], case: str
) -> None:
    folder = visit_case(case)
    prior, followup = read_volume(folder / "prior_ct.nii.gz"), read_volume(folder / "followup_ct.nii.gz")
    lesion, truth = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{visit}_seg.nii.gz"))) > 0 for visit in NAMES)
    points = followup.grid.to_physical(np.argwhere(truth)[::200, ::-1].astype(float))

    def reached(transform: sitk.Transform) -> NDArray[np.float64]:
        return np.array([transform.TransformPoint(point.tolist()) for point in points])

    expected = reached(register(prior, followup, lesion, "deformable").transform)
    values = in_cylinder(stored(np.clip(followup.array, -1024, 3071)), 0)
    found = register(prior, replace(followup, array=approximate_hu(values)), lesion, "deformable", true_hu=False)
    rigid, final = (np.linalg.norm(reached(t) - expected, axis=1).mean() for t in (found.rigid, found.transform))
    assert rigid < 3.5
    assert final < rigid
    assert final < 1.5


def test_the_body_of_a_cbct_is_that_of_the_ct() -> None:
    cbct = replace(PRIOR, array=approximate_hu(stored(PRIOR.array)))
    found, true = (sitk.GetArrayFromImage(body_mask(to_image(volume))) > 0 for volume in (cbct, PRIOR))
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.98
    # Without the scale everything, air included, lies above the body's threshold.
    raw = sitk.GetArrayFromImage(body_mask(to_image(replace(PRIOR, array=stored(PRIOR.array))))) > 0
    assert raw.all()


def test_a_cbct_visit_is_registered_and_flagged() -> None:
    followup, lesion = scan(BODY, grid_around(spacing=(2.6, 2.6, 3.2)), MOTION, 2)
    cbct = replace(followup, array=stored(followup.array))
    options = PropagationOptions(registration="rigid", modality="cbct")
    visit = propagate(BrightnessModel(), PRIOR, [Segment("GTV", LESION)], cbct, options)
    (result,) = visit.segments
    carried = result.registered_mask
    assert 2 * (carried & lesion).sum() / (carried.sum() + lesion.sum()) > 0.85
    assert visit.registration["body_correlation"] > 0.75
    assert result.outcome is not Outcome.FOUND
    assert any("CBCT" in reason for reason in result.reasons)
