"""What is said of a contour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.outcome import GONE_SHARE, ContourFigures, Piece, decide, figures, loose_share
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.volume import BoolArray, Volume
from scipy.spatial.transform import Rotation

GRID = Grid((20, 40, 40), (2.0, 2.0, 3.0))


#: No voxel at all.
NOTHING: BoolArray = np.zeros(GRID.shape, dtype=np.bool_)


def cube(low: tuple[int, int, int] = (8, 15, 15), size: int = 8, grid: Grid = GRID) -> BoolArray:
    mask = np.zeros(grid.shape, dtype=np.bool_)
    mask[tuple(slice(a, a + size) for a in low)] = True
    return mask


def ct(padding: NDArray[np.bool_] | None = None) -> Volume:
    array = np.full(GRID.shape, 40, dtype=np.int16)
    if padding is not None:
        array[padding] = -2000
    return Volume(array, GRID, "followup")


def judged(
    mask: BoolArray,
    registered: BoolArray | None = None,
    prior_ml: float | None = None,
    pieces: Sequence[Piece] | None = None,
    visit: tuple[str, ...] = (),
    followup: Volume | None = None,
) -> tuple[Outcome, tuple[str, ...]]:
    """The outcome of a mask; by default the registered contour is the usual cube, and the mask is one piece."""
    registered = cube() if registered is None else registered
    volume = float(cube().sum()) * GRID.voxel_ml if prior_ml is None else prior_ml
    found = figures(mask, registered, volume, GRID) if mask.any() and registered.any() else None
    return decide(mask, registered, found, pieces or [Piece(mask, registered)], visit, followup or ct())


def test_a_contour_equal_to_the_registered_one_is_found_without_a_reason() -> None:
    assert judged(cube()) == (Outcome.FOUND, ())


def test_figures_of_a_moved_and_halved_cube_are_exact_in_a_rotated_frame() -> None:
    matrix = Rotation.from_euler("xyz", [20, -10, 30], degrees=True).as_matrix()
    grid = Grid((20, 40, 40), (2.0, 1.0, 3.0), (5.0, 6.0, 7.0), tuple(matrix.ravel().tolist()))
    half = cube((8, 15, 15), 8)
    half[12:] = False
    found = figures(half, cube(), 8**3 * 0.006, grid)
    assert found.volume_ml == pytest.approx(8 * 8 * 4 * 0.006)
    assert found.change_percent == pytest.approx(-50.0)
    np.testing.assert_allclose(found.shift_lps_mm, matrix @ np.array([0.0, 0.0, -6.0]), atol=1e-9)


def test_nothing_found_is_no_lesion_and_says_so() -> None:
    outcome, reasons = judged(NOTHING)
    assert outcome is Outcome.NO_LESION
    assert reasons


def test_a_crumb_is_no_lesion() -> None:
    crumb = np.zeros(GRID.shape, dtype=np.bool_)
    crumb[10, 18, 15 : 15 + int(GONE_SHARE * cube().sum()) - 8] = True
    assert crumb.any()
    assert judged(crumb)[0] is Outcome.NO_LESION


@pytest.mark.parametrize("mask", [cube(), NOTHING])
def test_a_lesion_that_lies_outside_the_field_of_view_is_never_found(mask: BoolArray) -> None:
    outcome, reasons = judged(mask, registered=NOTHING)
    assert outcome is Outcome.NO_LESION
    assert "field of view" in reasons[-1]


def test_too_small_is_said_before_anything_about_the_contour() -> None:
    outcome, reasons = judged(NOTHING, pieces=[Piece(NOTHING, cube(), too_small=True)])
    assert outcome is Outcome.TOO_SMALL
    assert len(reasons) == 1
    assert "few" in reasons[0]


def test_a_lesion_between_two_slices_is_too_small_and_says_why() -> None:
    outcome, reasons = judged(NOTHING, registered=NOTHING, pieces=[Piece(NOTHING, NOTHING, thin=True)])
    assert outcome is Outcome.TOO_SMALL
    assert "thinner" in reasons[0]


@pytest.mark.parametrize(
    "lost",
    [
        Piece(NOTHING, cube((2, 2, 2), 4), too_small=True),
        Piece(NOTHING, NOTHING, thin=True),
        Piece(NOTHING, NOTHING, outside_share=1.0),
        Piece(NOTHING, cube((2, 2, 2), 4)),
    ],
)
def test_a_lesion_that_is_missing_beside_one_that_was_found_is_named_by_its_number(lost: Piece) -> None:
    outcome, reasons = judged(cube(), pieces=[Piece(cube(), cube()), lost])
    assert outcome is Outcome.FLAGGED
    assert len(reasons) == 1
    assert reasons[0].startswith("lesion 2 of 2: ")


def test_several_lesions_without_a_fault_are_found() -> None:
    both = cube() | cube((2, 2, 2), 4)
    volume = float(both.sum()) * GRID.voxel_ml
    pieces = [Piece(cube(), cube()), Piece(cube((2, 2, 2), 4), cube((2, 2, 2), 4))]
    assert judged(both, registered=both, prior_ml=volume, pieces=pieces) == (Outcome.FOUND, ())


@pytest.mark.parametrize(("missing", "flagged"), [([12], True), ([8], False), ([8, 9], False), ([8, 9, 15], True), ([], False)])
def test_a_gap_and_many_absent_slices_are_flagged(missing: list[int], flagged: bool) -> None:
    mask = cube()
    mask[missing] = False
    outcome, reasons = judged(mask)
    assert outcome is (Outcome.FLAGGED if flagged else Outcome.FOUND)
    if flagged:
        assert f"{len(missing)} of the 8 slices" in reasons[0]


@pytest.mark.parametrize(("prior_share", "flagged"), [(0.6, True), (0.7, False), (2.4, False), (2.6, True)])
def test_a_large_change_of_volume_is_flagged_in_both_directions(prior_share: float, flagged: bool) -> None:
    prior_ml = prior_share * float(cube().sum()) * GRID.voxel_ml
    outcome, reasons = judged(cube(), prior_ml=prior_ml)
    assert outcome is (Outcome.FLAGGED if flagged else Outcome.FOUND)
    assert len(reasons) == int(flagged)
    if flagged:
        sign = "+" if prior_share < 1 else "-"
        assert sign in reasons[0]
        assert "%" in reasons[0]


@pytest.mark.parametrize(("columns", "flagged"), [(6, False), (7, True)])
def test_a_contour_far_from_the_registered_one_is_flagged(columns: int, flagged: bool) -> None:
    outcome, reasons = judged(cube((8, 15, 15 + columns)))
    assert outcome is (Outcome.FLAGGED if flagged else Outcome.FOUND)
    assert all("14 mm" in reason for reason in reasons)


def test_a_lesion_that_is_partly_outside_is_flagged_with_its_share() -> None:
    outcome, reasons = judged(cube(), pieces=[Piece(cube(), cube(), outside_share=0.23)])
    assert outcome is Outcome.FLAGGED
    assert len(reasons) == 1
    assert "23 %" in reasons[0]
    assert "field of view" in reasons[0]
    assert judged(cube(), pieces=[Piece(cube(), cube(), outside_share=0.005)])[0] is Outcome.FOUND


@pytest.mark.parametrize(("axis", "end"), [(axis, end) for axis in range(3) for end in (0, 1)])
def test_a_contour_at_any_side_of_the_volume_is_flagged(axis: int, end: int) -> None:
    low = [8, 15, 15]
    low[axis] = 0 if end == 0 else GRID.shape[axis] - 8
    mask = cube((low[0], low[1], low[2]))
    outcome, reasons = judged(mask, registered=mask)
    assert outcome is Outcome.FLAGGED
    assert "edge" in reasons[0]


def test_a_contour_one_voxel_from_the_side_is_not_flagged() -> None:
    mask = cube((8, 1, 15))
    assert judged(mask, registered=mask)[0] is Outcome.FOUND


def test_a_contour_that_ends_at_padding_is_flagged() -> None:
    padding = np.zeros(GRID.shape, dtype=np.bool_)
    padding[:, :, 23:] = True
    padding[:8] = True
    outcome, reasons = judged(cube(), followup=ct(padding))
    assert outcome is Outcome.FLAGGED
    assert "edge" in reasons[0]


def test_air_beside_the_lesion_is_no_padding() -> None:
    followup = ct()
    followup.array[:, :, 23:] = -1024
    assert judged(cube(), followup=followup) == (Outcome.FOUND, ())


def test_reasons_of_the_visit_flag_every_segment_and_come_first() -> None:
    outcome, reasons = judged(cube(), visit=("CBCT", "registration poor"), pieces=[Piece(cube(), cube(), outside_share=0.5)])
    assert outcome is Outcome.FLAGGED
    assert reasons[:2] == ("CBCT", "registration poor")
    assert len(reasons) == 3


@pytest.mark.parametrize("too_small", [True, False])
def test_reasons_of_the_visit_stay_with_a_segment_that_was_not_found(too_small: bool) -> None:
    reasons = judged(NOTHING, pieces=[Piece(NOTHING, cube(), too_small=too_small)], visit=("CBCT",))[1]
    assert reasons[0] == "CBCT"
    assert len(reasons) == 2


def test_figures_are_plain_numbers() -> None:
    found = figures(cube(), cube(), 3.0, GRID)
    assert isinstance(found, ContourFigures)
    assert {type(value) for value in (found.volume_ml, found.change_percent, *found.shift_lps_mm)} == {float}


@pytest.mark.parametrize(("share", "flagged"), [(None, False), (-0.2, False), (0.05, False), (0.06, True), (0.8, True)])
def test_a_contour_that_no_longer_looks_like_the_lesion_is_flagged_with_its_share(share: float | None, flagged: bool) -> None:
    mask = cube()
    found = figures(mask, mask, float(mask.sum()) * GRID.voxel_ml, GRID)
    outcome, reasons = decide(mask, mask, found, [Piece(mask, mask, lost_share=share)], (), ct())
    assert outcome is (Outcome.FLAGGED if flagged else Outcome.FOUND)
    assert len(reasons) == int(flagged)
    if share is not None:
        assert all(reason.startswith(f"lesion: {100 * share:.0f} % of it no longer looks like") for reason in reasons)


def test_a_limit_of_the_search_that_is_reached_flags_the_contour() -> None:
    assert judged(cube(), pieces=[Piece(cube(), cube(), limits=("it goes on",))]) == (Outcome.FLAGGED, ("lesion: it goes on",))


def test_a_contour_that_holds_more_air_than_the_prior_lesion_is_flagged() -> None:
    mask = cube()
    followup = ct()
    followup.array[mask & cube((8, 15, 15), 4)] = -700  # an eighth of the contour
    found = figures(mask, mask, float(mask.sum()) * GRID.voxel_ml, GRID)
    assert loose_share(followup, mask) == pytest.approx(1 / 8)
    for loose, expected in (((0.0, 1 / 8), Outcome.FLAGGED), ((0.1, 1 / 8), Outcome.FOUND), (None, Outcome.FOUND)):
        outcome, reasons = decide(mask, mask, found, [Piece(mask, mask, loose_shares=loose)], (), followup)
        assert outcome is expected, reasons
    assert loose_share(followup, mask & False) == 0.0


@pytest.mark.parametrize(
    ("lost", "loose", "words"), [(0.98, None, "98 % of"), (None, (0.0, 0.9), "90 % of the contour is fat")]
)
def test_tissue_of_a_small_lesion_is_said_of_that_lesion(
    lost: float | None, loose: tuple[float, float] | None, words: str
) -> None:
    small = cube((2, 2, 2), 4)
    both = cube() | small
    pieces = [Piece(cube(), cube(), lost_share=0.0), Piece(small, small, lost_share=lost, loose_shares=loose)]
    outcome, reasons = judged(both, both, float(both.sum()) * GRID.voxel_ml, pieces)
    assert outcome is Outcome.FLAGGED
    assert len(reasons) == 1
    assert reasons[0].startswith(f"lesion 2 of 2: {words}")


@pytest.mark.parametrize(("share", "flagged"), [(None, False), (0.04, False), (0.4, True)])
def test_lesions_too_small_to_be_judged_alone_are_judged_together(share: float | None, flagged: bool) -> None:
    mask = cube()
    found = figures(mask, mask, float(mask.sum()) * GRID.voxel_ml, GRID)
    outcome, reasons = decide(mask, mask, found, [Piece(mask, mask)], (), ct(), lost_together=share)
    assert outcome is (Outcome.FLAGGED if flagged else Outcome.FOUND)
    assert all(reason.startswith("small lesions together: 40 %") for reason in reasons)


@pytest.mark.parametrize(("share", "flagged"), [(0.2, False), (0.4, True)])
def test_a_lesion_that_falls_between_the_voxels_in_part_is_flagged_with_its_share(share: float, flagged: bool) -> None:
    outcome, reasons = judged(cube(), pieces=[Piece(cube(), cube(), between_share=share)])
    assert outcome is (Outcome.FLAGGED if flagged else Outcome.FOUND)
    assert all(reason == "lesion: 40 % of it falls between the follow-up's voxels" for reason in reasons)


@pytest.mark.parametrize("mask", [cube(), cube((9, 14, 15), 5), NOTHING])
def test_a_piece_without_the_volume_around_it_says_the_same(mask: BoolArray) -> None:
    for registered in (cube(), NOTHING):
        piece = Piece(mask, registered, outside_share=0.2, lost_share=0.4)
        assert piece.cropped().reasons() == piece.reasons()
        assert piece.cropped().mask.size <= cube().sum() * 2 < piece.mask.size
