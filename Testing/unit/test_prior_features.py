"""What is learnt from the prior: cells of the lesion and of its surroundings, pooled over slices."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.intensity import Window
from P2SAMSlicerLib.prior_features import MAX_CELLS, MAX_SLICES, PriorFeatures, prior_features
from P2SAMSlicerLib.volume import Volume
from stub_model import BrightnessModel

Mask = NDArray[np.bool_]

WINDOW = Window(-160.0, 240.0)
LESION_HU, TISSUE_HU = 180.0, -60.0


def ball(
    radius_mm: float, spacing: tuple[float, float, float] = (1.0, 1.0, 2.0), shape: tuple[int, int, int] = (40, 90, 90)
) -> tuple[Volume, Mask]:
    grid = Grid(shape, spacing)
    z, y, x = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing[::-1], strict=True))
    mask = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= radius_mm**2
    return Volume(np.where(mask, LESION_HU, TISSUE_HU).astype(np.float32), grid, "ball"), mask


def learnt(
    volume: Volume, mask: Mask, seed: int = 0, side_mm: float = 80.0, model: BrightnessModel | None = None
) -> PriorFeatures:
    return prior_features(model or BrightnessModel(), volume, mask, WINDOW, side_mm, 256, seed)


def gray(hu: float) -> float:
    return (hu + 160) / 400


def test_lesion_cells_show_the_lesion_and_surrounding_cells_what_is_around_it() -> None:
    found = learnt(*ball(15.0))
    assert len(found.lesion) > 100
    # A cell may be lesion by four fifths only.
    assert found.lesion.hu[:, 0].min() > gray(TISSUE_HU) + 0.75 * (gray(LESION_HU) - gray(TISSUE_HU))
    assert found.lesion.features[:, 0].mean() == pytest.approx(gray(LESION_HU), abs=0.03)
    assert np.median(found.surroundings.hu[:, 0]) == pytest.approx(gray(TISSUE_HU), abs=0.02)
    assert found.surroundings.hu[:, 0].mean() < gray(TISSUE_HU) + 0.05


def test_the_parts_are_made_from_the_same_cells() -> None:
    found = learnt(*ball(15.0))
    np.testing.assert_array_equal(found.reference.foreground, found.lesion.features)
    np.testing.assert_array_equal(found.reference.background, found.surroundings.features)


def test_tissue_far_from_the_lesion_teaches_nothing() -> None:
    volume, mask = ball(10.0)
    z, y, x = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(volume.grid.shape, volume.grid.spacing_zyx, strict=True))
    far = np.broadcast_to(np.hypot(y[:, None], x[None, :]) > 34, mask.shape)
    marked = Volume(np.where(far, 240.0, volume.array).astype(np.float32), volume.grid, "marked")
    found = learnt(marked, mask)
    assert not (found.surroundings.hu[:, 0] > 0.95).any()
    assert len(z) == len(volume.array)


def test_no_more_slices_are_encoded_than_the_limit_and_all_of_a_short_lesion() -> None:
    for radius, slices in ((30.0, MAX_SLICES), (5.0, 6)):
        volume, mask = ball(radius)
        model = BrightnessModel()
        learnt(volume, mask, model=model)
        assert model.encoded == min(slices, int(mask.any(axis=(1, 2)).sum()))


def test_slices_are_spread_over_the_whole_lesion() -> None:
    """Each slice of the lesion has its own HU; what is learnt spans most of them, symmetrically."""
    volume, mask = ball(30.0)
    ramp = np.linspace(-100, 200, len(volume.array))[:, None, None]
    found = learnt(Volume(np.where(mask, ramp, -160.0).astype(np.float32), volume.grid, "ramp"), mask)
    present = np.flatnonzero(mask.any(axis=(1, 2)))
    low, high = gray(ramp[present[0], 0, 0]), gray(ramp[present[-1], 0, 0])
    values = found.lesion.hu[:, 0]
    assert values.min() < low + 0.2 * (high - low)
    assert values.max() > high - 0.2 * (high - low)


def test_cells_are_limited_and_drawn_the_same_for_the_same_seed() -> None:
    volume, mask = ball(35.0)
    first, again, other = learnt(volume, mask, 1), learnt(volume, mask, 1), learnt(volume, mask, 2)
    assert len(first.lesion) == MAX_CELLS
    np.testing.assert_array_equal(first.lesion.features, again.lesion.features)
    np.testing.assert_array_equal(first.surroundings.hu, again.surroundings.hu)
    assert (first.lesion.features != other.lesion.features).any()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 2.0), (0.6, 1.4, 5.0)], ids=["even", "uneven"])
def test_a_lesion_thinner_than_a_cell_still_has_one_cell_a_slice(spacing: tuple[float, float, float]) -> None:
    grid = Grid((5, 90, 90), spacing)
    mask = np.zeros(grid.shape, dtype=bool)
    mask[1:4, 45, 45] = True
    volume = Volume(np.where(mask, LESION_HU, TISSUE_HU).astype(np.float32), grid, "thread")
    found = learnt(volume, mask, side_mm=200.0)
    assert len(found.lesion) == 3
    assert len(found.surroundings) > 0


def test_a_larger_window_shows_the_lesion_with_fewer_cells() -> None:
    volume, mask = ball(12.0)
    near, far = learnt(volume, mask, side_mm=64.0), learnt(volume, mask, side_mm=160.0)
    assert len(near.lesion) > 3 * len(far.lesion)


def test_a_lesion_that_fills_the_window_has_no_surroundings_and_is_no_error() -> None:
    grid = Grid((3, 90, 90))
    mask = np.ones(grid.shape, dtype=bool)
    found = learnt(Volume(np.full(grid.shape, LESION_HU, np.float32), grid, "full"), mask, side_mm=64.0)
    assert len(found.lesion) > 0
    assert len(found.surroundings) == 0
    assert found.reference.background.shape == (0, found.lesion.features.shape[1])
