"""Evidence for the lesion: what cells say, where, and where it is expected."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from P2SAMSlicerLib.evidence import (
    FEATURE_WEIGHT,
    HU_WEIGHT,
    LIMIT,
    LOCATION_MM,
    Cells,
    LesionEvidence,
    cells_of_slice,
    pool_to_cells,
)

CELLS, PIXELS, CHANNELS = 16, 64, 8
Floats = NDArray[np.float32]

#: Lesion of the follow-up, in cells.
INSIDE = np.zeros((CELLS, CELLS), dtype=bool)
INSIDE[5:11, 6:12] = True


def drawn(count: int, feature: float, hu: float, seed: int) -> Cells:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, CHANNELS)) + feature * np.array([1, -1] * (CHANNELS // 2))
    return Cells(features.astype(np.float32), (hu + rng.normal(0, 0.02, (count, 3))).astype(np.float32))


def slice_cells(feature: float, hu: float, seed: int = 5) -> Cells:
    """A slice whose lesion differs from the rest by ``feature`` and ``hu``."""
    lesion, rest = drawn(CELLS**2, feature, 0.5 + hu, seed), drawn(CELLS**2, 0.0, 0.5, seed + 1)
    inside = INSIDE.ravel()[:, None]
    return Cells(np.where(inside, lesion.features, rest.features), np.where(inside, lesion.hu, rest.hu))


def learnt(feature: float, hu: float, lesion_count: int = 200, rest_count: int = 600) -> LesionEvidence:
    return LesionEvidence.learn(drawn(lesion_count, feature, 0.5 + hu, 0), drawn(rest_count, 0.0, 0.5, 1))


LEARNT = learnt(1.5, 0.2)


def nowhere_expected() -> Floats:
    return np.zeros((PIXELS, PIXELS), dtype=np.float32)


def core_and_far() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels at least a cell inside the lesion, and at least two cells outside it."""
    from scipy import ndimage

    core, far = ndimage.binary_erosion(INSIDE), ~ndimage.binary_dilation(INSIDE, iterations=2)
    step = PIXELS // CELLS
    return np.kron(core, np.ones((step, step))) > 0, np.kron(far, np.ones((step, step))) > 0


@pytest.mark.parametrize(("feature", "hu"), [(1.5, 0.2), (1.5, 0.0), (0.0, 0.2), (0.0, -0.2)])
def test_evidence_is_positive_inside_and_negative_outside_by_features_or_hu_alone(feature: float, hu: float) -> None:
    evidence = learnt(feature, hu).map(slice_cells(feature, hu), nowhere_expected())
    core, far = core_and_far()
    assert (evidence[core] > 0).mean() > 0.95
    assert (evidence[far] < 0).mean() > 0.75
    assert evidence[core].mean() > 0.25
    assert evidence[far].mean() < -0.25


def test_where_lesion_and_surroundings_look_alike_nothing_is_claimed() -> None:
    evidence = learnt(0.0, 0.0).map(slice_cells(0.0, 0.0), nowhere_expected())
    assert abs(evidence.mean()) < 0.3
    assert np.abs(evidence).max() < 1.5


def test_many_background_cells_do_not_outvote_a_few_of_the_lesion() -> None:
    few, many = learnt(1.5, 0.2, 30, 3000), learnt(1.5, 0.2, 1000, 1000)
    core, _ = core_and_far()
    cells = slice_cells(1.5, 0.2)
    assert few.map(cells, nowhere_expected())[core].mean() > 0.3 * many.map(cells, nowhere_expected())[core].mean() > 0


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.floats(-1e6, 1e6))
def test_no_voice_is_believed_beyond_its_limit(feature: float, hu: float, place: float) -> None:
    odd = Cells(np.full((CELLS**2, CHANNELS), feature, np.float32), np.full((CELLS**2, 3), hu, np.float32))
    evidence = LEARNT.map(odd, np.full((PIXELS, PIXELS), place, np.float32))
    assert np.isfinite(evidence).all()
    assert np.abs(evidence).max() <= LIMIT * (1 + FEATURE_WEIGHT + HU_WEIGHT) + 1e-4


def test_the_carried_contour_adds_one_unit_for_each_few_millimetres() -> None:
    model, cells = learnt(1.5, 0.2), slice_cells(1.5, 0.2)
    here = model.map(cells, nowhere_expected())
    for millimetres in (-100.0, -LOCATION_MM, 2.0, LOCATION_MM, 100.0):
        there = model.map(cells, np.full((PIXELS, PIXELS), millimetres, np.float32))
        np.testing.assert_allclose(there - here, np.clip(millimetres / LOCATION_MM, -LIMIT, LIMIT), atol=1e-4)


def test_without_surroundings_only_the_place_speaks() -> None:
    model = LesionEvidence.learn(
        drawn(50, 1.0, 0.5, 0), Cells(np.zeros((0, CHANNELS), np.float32), np.zeros((0, 3), np.float32))
    )
    evidence = model.map(slice_cells(1.0, 0.2), np.full((PIXELS, PIXELS), LOCATION_MM, np.float32))
    np.testing.assert_allclose(evidence, 1.0)


def test_a_single_lesion_cell_is_enough_to_learn() -> None:
    assert np.isfinite(learnt(1.5, 0.2, 1, 100).map(slice_cells(1.5, 0.2), nowhere_expected())).all()


def test_evidence_stays_in_its_place_when_cells_become_pixels() -> None:
    evidence = learnt(1.5, 0.2).map(slice_cells(1.5, 0.2), nowhere_expected())
    rows, columns = np.nonzero(evidence > 1.0)
    assert rows.mean() == pytest.approx((5 + 11) / 2 * 4 - 0.5, abs=2)
    assert columns.mean() == pytest.approx((6 + 12) / 2 * 4 - 0.5, abs=2)


# ------------------------------------------------------------------------------------------------------------ cells


def test_pooling_is_the_mean_of_each_cell() -> None:
    image = np.arange(16).reshape(4, 4)
    np.testing.assert_array_equal(pool_to_cells(image, 2), [[2.5, 4.5], [10.5, 12.5]])
    assert pool_to_cells(np.ones((4, 4), bool), 2).tolist() == [[1, 1], [1, 1]]
    np.testing.assert_array_equal(pool_to_cells(image, 4), image)


def test_cells_hold_the_mean_and_the_scatter_of_their_own_pixels_in_row_major_order() -> None:
    gray = np.zeros((8, 8), dtype=np.uint8)
    gray[0:2, 6:8] = 255  # a uniform cell: row 0, column 3
    gray[4:6, 0] = 255  # half of a cell: row 2, column 0
    features = np.arange(4 * 4 * 3, dtype=np.float32).reshape(4, 4, 3)
    cells = cells_of_slice(features, gray)
    assert len(cells) == 16
    np.testing.assert_array_equal(cells.features[2 * 4 + 1], features[2, 1])
    np.testing.assert_allclose(cells.hu[3, :2], [1.0, 0.0], atol=1e-3)
    np.testing.assert_allclose(cells.hu[8, :2], [0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(cells.hu[15, :2], 0.0, atol=1e-6)
    assert (cells.hu[:, 2] > 0).all()
    assert cells.hu[2, 2] > cells.hu[14, 2]


def test_a_uniform_bright_slice_has_no_scatter() -> None:
    cells = cells_of_slice(np.zeros((4, 4, 1), np.float32), np.full((16, 16), 201, np.uint8))
    np.testing.assert_allclose(cells.hu[:, 1], 0.0, atol=1e-3)
    np.testing.assert_allclose(cells.hu[:, [0, 2]], 201 / 255, atol=1e-6)


def test_picked_and_joined_cells_keep_features_and_hu_together() -> None:
    cells = drawn(6, 0.0, 0.5, 9)
    chosen = np.array([False, True, False, True, True, False])
    joined = Cells.join([cells.pick(chosen), cells.pick(np.array([0]))])
    np.testing.assert_array_equal(joined.features, cells.features[[1, 3, 4, 0]])
    np.testing.assert_array_equal(joined.hu, cells.hu[[1, 3, 4, 0]])
