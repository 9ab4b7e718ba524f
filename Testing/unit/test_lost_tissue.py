"""Tissue that took the place of a tumour is told from a tumour that is still there."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from P2SAMSlicerLib.lost_tissue import lost_share
from P2SAMSlicerLib.outcome import MAX_LOST_SHARE
from P2SAMSlicerLib.volume import BoolArray

SHAPE, SPACING = (30, 34, 34), (3.0, 3.0, 3.0)
MUSCLE, FAT, TUMOUR = 40.0, -100.0, 75.0
IDENTITY = sitk.Euler3DTransform()


def ball(radius_mm: float, shift_mm: float = 0.0) -> BoolArray:
    z, y, x = np.indices(SHAPE) * SPACING[0]
    inside: BoolArray = (z - 45) ** 2 + (y - 51) ** 2 + (x - 51 - shift_mm) ** 2 <= radius_mm**2
    return inside


LESION = ball(18.0)


def ct(
    lesion: BoolArray, hu: float = TUMOUR, seed: int = 0, offset: float = 0.0, around: float = MUSCLE
) -> NDArray[np.float32]:
    """Muscle with a lesion, noise, and an offset of the scanner's zero."""
    noise = np.random.default_rng(seed).normal(0.0, 12.0, SHAPE)
    return (np.where(lesion, hu, around) + noise + offset).astype(np.float32)


def image(array: NDArray[np.float32]) -> sitk.Image:
    result = sitk.GetImageFromArray(array)
    result.SetSpacing(SPACING)
    return result


def share(
    now: NDArray[np.float32],
    contour: BoolArray = LESION,
    before: NDArray[np.float32] | None = None,
    transform: sitk.Transform = IDENTITY,
    registered: BoolArray = LESION,
) -> float:
    found = lost_share(image(now), image(ct(LESION) if before is None else before), transform, contour, registered)
    assert found is not None
    return found


@pytest.mark.parametrize("offset", [0.0, 40.0, -40.0])
def test_a_lesion_that_is_still_there_has_lost_nothing_whatever_the_scanners_offset(offset: float) -> None:
    assert share(ct(LESION, seed=1, offset=offset)) < 0.01 < MAX_LOST_SHARE


def test_a_vanished_lesion_drawn_at_its_old_size_has_lost_most_of_its_tissue() -> None:
    assert share(ct(ball(0.0), seed=1)) > 0.7


def test_a_shrunk_lesion_drawn_at_its_old_size_has_lost_the_rim_and_one_drawn_to_size_has_not() -> None:
    now, left = ct(ball(12.0), seed=1), ball(12.0)
    assert share(now) > 0.5
    assert share(now, contour=left) < share(now) / 2


def test_a_lesion_that_darkened_is_seen_too() -> None:
    assert share(ct(LESION, hu=20.0, seed=1)) > 0.7


def test_fat_that_a_growing_lesion_took_within_the_old_contour_is_no_loss() -> None:
    rim = LESION & ~ball(16.0)
    before = ct(LESION)
    before[rim] += np.float32(FAT - TUMOUR)
    assert share(ct(ball(22.0), seed=1), before=before) <= 0.0
    assert share(before, before=ct(LESION, seed=1)) > 0.2, "the other way round it is one"


def test_growth_beyond_the_registered_contour_is_no_loss() -> None:
    assert share(ct(ball(22.0), seed=1), contour=ball(22.0)) <= 0.0


def test_surroundings_that_changed_as_much_take_the_blame_from_the_lesion() -> None:
    gone = ct(ball(0.0), seed=1)
    spoilt = gone.copy()
    spoilt[:, ::4] += 80.0
    spoilt[:, 1::4] += 80.0
    assert share(spoilt) < share(gone) - 0.3


def test_the_prior_is_looked_at_where_the_transform_says() -> None:
    moved = ball(18.0, 12.0)
    to_prior = sitk.TranslationTransform(3, (-12.0, 0.0, 0.0))
    now = ct(moved, seed=1)
    assert share(now, contour=moved, registered=moved, transform=to_prior) < 0.01
    assert share(now, contour=moved, registered=moved) > MAX_LOST_SHARE


@pytest.mark.parametrize(("contour", "registered"), [(ball(9.0), ball(9.0)), (LESION & False, LESION), (LESION, ball(9.0))])
def test_little_tissue_is_not_judged(contour: BoolArray, registered: BoolArray) -> None:
    assert lost_share(image(ct(LESION)), image(ct(LESION)), IDENTITY, contour, registered) is None


def test_a_lesion_that_the_prior_does_not_show_there_is_not_judged() -> None:
    away = sitk.TranslationTransform(3, (500.0, 0.0, 0.0))
    assert lost_share(image(ct(LESION)), image(ct(LESION)), away, LESION, LESION) is None
