"""The prompts that training draws lie where they say they do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from P2SAMSlicerLib.adaptation.examples import Example
from P2SAMSlicerLib.adaptation.prompt_sampling import (
    BOX_NOISE_LIMIT,
    KINDS,
    MISPLACED_MM,
    SHARES,
    Kind,
    carried_contour,
    draw_kind,
    draw_prompts,
    error_points,
    make_prompts,
)
from P2SAMSlicerLib.candidates import MASK_PROMPT_LIMIT, NEGATIVE_CLEARANCE_MM, bounding_box
from P2SAMSlicerLib.volume import BoolArray
from scipy import ndimage
from small_body import dice

SIDE = 256

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=12, deadline=None, derandomize=True)


def ellipse(x: float, y: float, width: float, height: float) -> BoolArray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    inside: BoolArray = ((columns - x) / width) ** 2 + ((rows - y) / height) ** 2 <= 1
    return inside


@st.composite
def lesions(draw: st.DrawFn) -> Example:
    """An example with a lesion of 2 to 140 pixels across somewhere on its region, which it may touch the edge of."""
    position, radius = st.integers(0, SIDE - 1), st.floats(1.0, 70.0)
    truth = ellipse(draw(position), draw(position), draw(radius), draw(radius))
    image = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    return Example("P", image, truth, truth, draw(st.floats(0.2, 1.0)))


def pixels(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column numbers of points, which must be whole pixels of the image."""
    whole = points.astype(int)
    np.testing.assert_array_equal(points, whole)
    assert whole.min() >= 0
    assert whole.max() < SIDE
    return whole[:, 1], whole[:, 0]


def usual(seed: int = 0) -> Example:
    truth = ellipse(130, 120, 30, 22)
    return Example("P", np.zeros((SIDE, SIDE, 3), dtype=np.uint8), truth, truth, 0.4 + 0.01 * seed)


@few
@given(lesions(), st.sampled_from(["parts", "parts + box", "contour + parts"]), st.integers(1, 5), st.integers(0, 45), seeds)
def test_positive_points_lie_in_the_lesion_and_negative_ones_away_from_it(
    example: Example, kind: Kind, parts: int, negatives: int, seed: int
) -> None:
    prompts = make_prompts(kind, [example, usual()], parts, negatives, np.random.default_rng(seed))
    assert prompts.points is not None
    assert prompts.labels is not None
    assert prompts.points.shape == (2, parts + negatives, 2)
    assert prompts.points.dtype == np.float32
    assert prompts.labels.tolist() == 2 * [[1] * parts + [0] * negatives]
    away = ndimage.distance_transform_edt(~example.truth) * example.pixel_mm
    # One of several may be misplaced on purpose, as parts are found beside the lesion now and then.
    assert (away[pixels(prompts.points[0][:parts])] < (MISPLACED_MM if parts > 1 else 1e-6)).all()
    if negatives:
        assert (away[pixels(prompts.points[0][parts:])] > min(NEGATIVE_CLEARANCE_MM, away.max() - 1e-3)).all()


def test_a_lesion_that_leaves_no_room_away_from_it_has_negatives_beside_it() -> None:
    truth = np.ones((SIDE, SIDE), dtype=np.bool_)
    truth[:3, :3] = False
    example = replace(usual(), truth=truth, nearest=truth)
    prompts = make_prompts("parts", [example], 1, 8, np.random.default_rng(0))
    assert prompts.points is not None
    assert not truth[pixels(prompts.points[0][1:])].any()


@few
@given(lesions(), seeds)
def test_a_noisy_box_is_near_the_lesions_box_and_inside_the_image(example: Example, seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = bounding_box(example.truth)
    sides = np.tile(true[2:] - true[:2], 2)
    for _ in range(20):
        prompts = make_prompts("noisy box", [example], 0, 0, rng)
        assert prompts.points is None
        assert prompts.masks is None
        assert prompts.boxes is not None
        (box,) = prompts.boxes
        assert box.min() >= 0
        assert box.max() <= SIDE - 1
        assert (np.abs(box - true) <= np.minimum(BOX_NOISE_LIMIT, 0.6 * sides) + 1e-3).all()
        assert (box[2:] > box[:2]).all()


def test_the_noise_of_a_box_is_a_tenth_of_its_sides_and_at_most_twenty_pixels() -> None:
    rng = np.random.default_rng(0)
    for truth, spread in ((ellipse(128, 128, 40, 20), (8.1, 4.1)), (ellipse(128, 128, 100, 100), (14.4, 14.4))):
        example = replace(usual(), truth=truth, nearest=truth)
        found = make_prompts("noisy box", [example] * 400, 0, 0, rng).boxes
        assert found is not None
        noise = found - bounding_box(truth)
        assert noise.std(axis=0) == pytest.approx([*spread, *spread], rel=0.15)
        assert np.abs(noise).max() <= BOX_NOISE_LIMIT + 1e-3


@few
@given(lesions(), seeds)
def test_a_carried_contour_is_never_empty_and_its_box_and_mask_are_its_own(example: Example, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(5):
        assert carried_contour(example.truth, example.pixel_mm, rng).any()
    prompts = make_prompts("contour + box", [example], 0, 0, rng)
    assert prompts.points is None
    assert prompts.boxes is not None
    assert prompts.masks is not None
    assert prompts.masks.shape == (1, 1, SIDE, SIDE)
    assert prompts.masks.dtype == np.float32
    assert np.abs(prompts.masks).max() <= MASK_PROMPT_LIMIT
    np.testing.assert_array_equal(prompts.boxes[0], bounding_box(prompts.masks[0, 0] > 0))


def test_carried_contours_are_as_wrong_as_a_registrations_too_large_and_too_small() -> None:
    rng = np.random.default_rng(1)
    found = []
    for truth in (ellipse(128, 128, 45, 40), ellipse(100, 140, 25, 30)):
        carried = [carried_contour(truth, 0.4, rng) for _ in range(45)]
        found.append((np.array([dice(c, truth) for c in carried]), np.array([c.sum() / truth.sum() for c in carried])))
    for overlap, size in found:
        assert 0.5 < overlap.mean() < 0.9
        assert overlap.max() > 0.85
        assert overlap.min() < 0.7
        assert np.mean(size > 1.2) > 0.15
        assert np.mean(size < 0.8) > 0.08


@few
@given(lesions(), lesions(), seeds)
def test_an_error_point_lies_on_the_error_with_the_truths_label(one: Example, other: Example, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(5):
        (x, y), label = error_points(one.truth, other.truth, rng)
        row, column = int(y), int(x)
        if (one.truth != other.truth).any():
            assert one.truth[row, column] != other.truth[row, column]
        assert label == int(other.truth[row, column])


def test_an_answer_without_error_gets_a_point_of_the_right_label() -> None:
    truth, rng = ellipse(128, 128, 100, 100), np.random.default_rng(0)
    labels = set()
    for _ in range(40):
        (x, y), label = error_points(truth, truth, rng)
        assert label == int(truth[int(y), int(x)])
        labels.add(label)
    assert labels == {0, 1}


def test_an_error_of_a_single_pixel_is_found() -> None:
    truth = ellipse(128, 128, 30, 30)
    answer = truth.copy()
    answer[3, 200] = True
    (x, y), label = error_points(answer, truth, np.random.default_rng(0))
    assert (x, y, label) == (200, 3, 0)


def test_kinds_are_drawn_with_their_shares() -> None:
    assert sum(SHARES.values()) == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    drawn = [draw_kind(rng) for _ in range(4000)]
    for kind in KINDS:
        assert drawn.count(kind) / len(drawn) == pytest.approx(SHARES[kind], abs=0.025)


def test_every_kind_has_what_it_is_named_after_and_nothing_else() -> None:
    expected = {
        "nothing": "",
        "point": "p",
        "noisy box": "b",
        "parts": "p",
        "parts + box": "pb",
        "contour + box": "bm",
        "contour + parts": "pm",
    }
    for kind in KINDS:
        prompts = draw_prompts(kind, [usual(), usual(1)], np.random.default_rng(3))
        given = zip("pbm", (prompts.points, prompts.boxes, prompts.masks), strict=True)
        assert "".join(letter for letter, value in given if value is not None) == expected[kind]
        assert (prompts.points is None) == (prompts.labels is None)
        if kind == "point":
            assert prompts.labels is not None
            assert prompts.labels.tolist() == [[1], [1]]


def test_a_slice_without_lesion_gets_the_prompts_of_its_nearest_slice() -> None:
    empty = replace(usual(), truth=np.zeros((SIDE, SIDE), dtype=np.bool_))
    for kind in KINDS:
        full_prompts, empty_prompts = (draw_prompts(kind, [e], np.random.default_rng(3)) for e in (usual(), empty))
        for name in ("points", "labels", "boxes", "masks"):
            np.testing.assert_array_equal(getattr(full_prompts, name), getattr(empty_prompts, name))
