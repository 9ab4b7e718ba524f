"""Priors with difficult lesions: both visits must show them, and what is said of them must be true of the voxels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.simulation.lesion import LESIONS, Lesion, make_prior, surrounding_hu
from P2SAMSlicerLib.simulation.visit import FILLS, Fill, SimulationOptions, simulate_followup
from P2SAMSlicerLib.volume import BoolArray, Volume
from P2SAMSlicerLib.volume_file import read_volume
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt, label

GRID = Grid((30, 100, 110), (1.1, 1.1, 2.5), (12.5, -40.0, 310.0))
MUSCLE, LUNG, LESION = 50.0, -850.0, 120.0

#: Nothing but what is asked for changes between the visits.
QUIET = SimulationOptions(
    "stable", rotation_deg=0.0, shift_mm=0.0, deform_mm=0.0, spacing=GRID.spacing, noise_hu=0.0, offset_hu=0.0
)


def body(tissue: float = MUSCLE, lesion_mm: float = 10.0, noise: float = 8.0) -> tuple[Volume, BoolArray]:
    """A cylinder of tissue within 8 mm of muscle, and a sphere of a lesion off its middle."""
    z, y, x = ((np.arange(n) - n / 2) * s for n, s in zip(GRID.shape, GRID.spacing_zyx, strict=True))
    radius = np.hypot(y[:, None], x[None, :])
    plane = np.where(radius < 42, tissue, np.where(radius < 50, MUSCLE, -1000.0))
    hu = np.broadcast_to(plane, GRID.shape) + np.random.default_rng(7).normal(0, noise, GRID.shape)
    mask = z[:, None, None] ** 2 + (y[:, None] + 5) ** 2 + (x + 18) ** 2 < lesion_mm**2
    hu = np.where(mask, hu - tissue + LESION, hu)
    return Volume(np.rint(np.maximum(hu, -1024)).astype(np.int16), GRID, "body"), mask


def apart_mm(one: BoolArray, two: BoolArray) -> float:
    return float(distance_transform_edt(~one, sampling=GRID.spacing_zyx)[two].min())


def test_the_patients_own_lesion_is_left_as_it_is() -> None:
    ct, mask = body()
    prior = make_prior(ct, mask, "own")
    assert prior.ct is ct
    assert prior.mask is mask
    assert prior.others is None


@pytest.mark.parametrize("fill", FILLS)
def test_an_isodense_lesion_is_within_a_few_hu_of_its_surroundings_on_both_visits(fill: Fill) -> None:
    ct, mask = body()
    prior = make_prior(ct, mask, "isodense", seed=2)
    np.testing.assert_array_equal(prior.mask, mask)
    far = distance_transform_edt(~mask, sampling=GRID.spacing_zyx) > 4
    np.testing.assert_array_equal(prior.ct.array[far], ct.array[far])
    followup = simulate_followup(prior.ct, prior.mask, replace(QUIET, change="shrink", fill=fill))
    for volume, lesion in ((prior.ct, prior.mask), (followup.followup, followup.mask)):
        around = surrounding_hu(volume.array, lesion, volume.grid.spacing_zyx)
        assert around is not None
        assert abs(np.median(volume.array[lesion]) - around) <= 6
    # The noise is still that of the CT.
    deep = binary_erosion(mask, iterations=2)
    assert prior.ct.array[deep].std() == pytest.approx(ct.array[deep].std(), rel=0.15)


@pytest.mark.parametrize("tissue", [MUSCLE, LUNG])
def test_a_pair_is_two_like_lesions_in_like_tissue_contoured_as_one_segment(tissue: float) -> None:
    ct, mask = body(tissue)
    prior = make_prior(ct, mask, "pair", seed=1)
    assert label(prior.mask)[1] == 2
    assert prior.others is None
    second = prior.mask & ~mask
    assert prior.mask[mask].all()
    assert apart_mm(mask, second) > 6
    assert second.sum() == pytest.approx(mask.sum(), rel=0.02)
    assert np.median(prior.ct.array[second]) == pytest.approx(LESION, abs=4)
    ring = binary_dilation(second, iterations=4) & ~binary_dilation(second, iterations=3)
    assert np.median(ct.array[ring]) == pytest.approx(tissue, abs=10)
    visit = simulate_followup(prior.ct, prior.mask, replace(QUIET, change="shrink"))
    assert label(visit.mask)[1] == 2


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("change", ["shrink", "grow", "vanish"])
def test_a_distractor_is_not_contoured_and_does_not_change(change: Any, fill: Fill) -> None:
    ct, mask = body()
    prior = make_prior(ct, mask, "distractor", seed=1)
    np.testing.assert_array_equal(prior.mask, mask)
    assert prior.others is not None
    assert not (prior.others & mask).any()
    deep = binary_erosion(prior.others, iterations=2)
    assert np.median(prior.ct.array[deep]) == pytest.approx(LESION, abs=4)
    visit = simulate_followup(prior.ct, prior.mask, replace(QUIET, change=change, fill=fill), prior.others)
    place = GRID.to_index(visit.followup.grid.to_physical(np.argwhere(np.ones(visit.mask.shape, bool))[:, ::-1].astype(float)))
    index = np.clip(np.rint(place[:, ::-1]).astype(int), 0, np.array(GRID.shape) - 1)
    there = prior.others[tuple(index.T)].reshape(visit.mask.shape)
    assert np.median(visit.followup.array[binary_erosion(there, iterations=2)]) == pytest.approx(LESION, abs=6)
    assert not (visit.mask & there).any()


@pytest.mark.parametrize(("lesion", "tissue"), [("small", MUSCLE), ("small_lung", LUNG)])
@pytest.mark.parametrize("diameter_mm", [5.0, pytest.param(7.5, marks=pytest.mark.long), 10.0])
def test_a_small_lesion_has_the_volume_of_its_diameter_and_lies_apart(
    lesion: Lesion, tissue: float, diameter_mm: float
) -> None:
    ct, mask = body(tissue)
    for seed in range(3):
        prior = make_prior(ct, mask, lesion, seed, diameter_mm)
        assert label(prior.mask)[1] == 1
        assert prior.mask.sum() * GRID.voxel_ml * 1000 == pytest.approx(np.pi / 6 * diameter_mm**3, rel=0.35)
        assert apart_mm(mask, prior.mask) > 6
        added = prior.ct.array[prior.mask].mean() - tissue
        assert 15 < added < 70 if lesion == "small" else 400 < added < 950
        assert prior.others is not None
        far = distance_transform_edt(~prior.mask, sampling=GRID.spacing_zyx) > 6
        np.testing.assert_array_equal(prior.ct.array[far], ct.array[far])
        visit = simulate_followup(prior.ct, prior.mask, replace(QUIET, change="grow"), prior.others)
        assert visit.mask.any()


def test_small_lesions_are_between_5_and_10_mm_unless_told_otherwise() -> None:
    ct, mask = body()
    drawn = {make_prior(ct, mask, "small", seed).details["diameter_mm"] for seed in range(8)}
    assert len(drawn) == 8
    assert min(drawn) >= 5
    assert max(drawn) <= 10


@pytest.mark.parametrize("lesion", LESIONS[1:])
def test_the_same_seed_gives_the_same_prior_and_leaves_the_ct_as_it_was(lesion: Lesion) -> None:
    ct, mask = body(LUNG if lesion == "small_lung" else MUSCLE)
    before = ct.array.copy(), mask.copy()
    one, two, other = (make_prior(ct, mask, lesion, seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one.ct.array, two.ct.array)
    np.testing.assert_array_equal(one.mask, two.mask)
    assert one.details == two.details
    assert (one.ct.array != other.ct.array).any()
    np.testing.assert_array_equal(ct.array, before[0])
    np.testing.assert_array_equal(mask, before[1])
    assert one.ct.grid == ct.grid


def test_what_cannot_be_made_is_refused_in_one_line() -> None:
    ct, mask = body()
    wide, wide_mask = body(lesion_mm=35.0)
    lung, lung_mask = body(LUNG)
    cases: list[tuple[Volume, BoolArray, Any, float | None, str]] = [
        (ct, mask, "huge", None, "unknown"),
        (ct, mask, "pair", 7.0, "diameter_mm"),
        (ct, mask, "small", 4.0, "diameter_mm"),
        (ct, mask, "small", float("nan"), "diameter_mm"),
        (ct, mask, "small_lung", None, "no room in the lung"),
        (wide, wide_mask, "pair", None, "no room"),
        (wide, wide_mask, "distractor", None, "no room"),
        (lung, lung_mask, "isodense", None, "no soft tissue"),
        (ct, mask[1:], "pair", None, "shape"),
        (ct, np.zeros_like(mask), "small", None, "empty"),
    ]
    for volume, lesion_mask, lesion, diameter_mm, word in cases:
        with pytest.raises(InputError, match=word) as caught:
            make_prior(volume, lesion_mask, lesion, diameter_mm=diameter_mm)
        assert "\n" not in str(caught.value)


def test_what_is_left_between_the_follow_ups_voxels_is_refused() -> None:
    ct, mask = body()
    prior = make_prior(ct, mask, "small", 1, 5.0)
    options = replace(QUIET, change="shrink", change_fraction=-0.9, spacing=(7.0, 7.0, 9.0))
    with pytest.raises(InputError, match="finer spacing") as caught:
        simulate_followup(prior.ct, prior.mask, options, prior.others)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "lesion",
    ["isodense", pytest.param("pair", marks=pytest.mark.long), pytest.param("distractor", marks=pytest.mark.long), "small"],
)
def test_a_real_sarcoma_ct_gives_a_prior_with_the_lesion(shared_data: Path, lesion: Lesion) -> None:
    folder = shared_data / "train" / "STS_025"
    if not folder.is_dir():
        pytest.skip("the shared data has no train/STS_025")
    ct, mask = read_volume(folder / "CT_image.nii.gz"), read_segmentation(folder / "CT_mask.nii.gz").segments[0].mask
    prior = make_prior(ct, mask, lesion, seed=3)
    if lesion == "isodense":
        around = surrounding_hu(prior.ct.array, mask, ct.grid.spacing_zyx)
        assert around is not None
        assert abs(np.median(prior.ct.array[mask]) - around) <= 5
        return
    new = prior.others if lesion == "distractor" else prior.mask & ~mask
    assert new is not None
    # In soft tissue: neither air nor bone was overwritten, and none was brought along.
    for volume in (ct, prior.ct):
        assert (np.abs(volume.array[new]) < 300).mean() > 0.99
    assert prior.ct.grid == ct.grid
