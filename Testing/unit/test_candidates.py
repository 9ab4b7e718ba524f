"""Candidates of a slice: which there are, what is prompted where, and when a box is widened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from P2SAMSlicerLib import candidates
from P2SAMSlicerLib.candidates import (
    BOX_SCALES,
    EXPECTED,
    NEGATIVE_CLEARANCE_MM,
    REGISTERED,
    Proposal,
    SliceView,
    bounding_box,
    mask_prompt,
    propose,
)
from P2SAMSlicerLib.models.protocol import Decoded, PromptSet
from P2SAMSlicerLib.prompts import Reference
from P2SAMSlicerLib.registration import signed_distance
from stub_model import BrightnessModel

SIZE = 256
PLAUSIBLE_MM = 15.0
Mask = NDArray[np.bool_]


def disc(radius: float, x: float = 128.0, y: float = 128.0) -> Mask:
    rows, columns = np.indices((SIZE, SIZE))
    mask: Mask = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    return mask


def image_of(mask: Mask, inside: int = 180, outside: int = 90) -> NDArray[np.uint8]:
    gray = np.where(mask, inside, outside).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def view_of(model: BrightnessModel, shown: Mask, carried: Mask, box_source: Mask | None = None) -> SliceView:
    """A slice on which ``shown`` is bright, with one-millimetre pixels."""
    distance = signed_distance(carried, (1.0, 1.0)) if carried.any() else np.full((SIZE, SIZE), -1000.0, np.float32)
    source = carried if box_source is None else box_source
    return SliceView(model.encode([image_of(shown)])[0], distance, distance, source)


def reference_of(model: BrightnessModel, lesion: Mask) -> Reference:
    return Reference.from_image(model, image_of(lesion), lesion)


def proposed(
    model: BrightnessModel,
    views: Sequence[SliceView],
    max_parts: int = 2,
    negatives: Sequence[int] = (0, 1),
    plausible_mm: float = PLAUSIBLE_MM,
    reference: Reference | None = None,
) -> list[list[Proposal]]:
    return propose(model, views, reference or reference_of(model, disc(30)), max_parts, negatives, plausible_mm)


def named(proposals: Sequence[Proposal], origin: str) -> Proposal:
    (found,) = [p for p in proposals if p.origin == origin]
    return found


# --------------------------------------------------------------------------------------------------------------- box


def test_the_box_of_a_mask_goes_to_the_edges_of_its_pixels() -> None:
    mask = np.zeros((50, 50), dtype=bool)
    mask[10:21, 30:35] = True
    np.testing.assert_allclose(bounding_box(mask), [29.5, 9.5, 34.5, 20.5])


def test_a_model_that_knows_masks_is_also_asked_with_the_expected_contour() -> None:
    carried = disc(25)
    model = BrightnessModel(("points", "box", "mask"))
    view = view_of(model, disc(30), carried)
    found = proposed(model, [view], 2, (1,))[0]
    boxed = named(found, "expected mask + box").prompt
    assert boxed.mask_logits is not None
    assert boxed.box is not None
    assert np.array_equal(boxed.mask_logits[0].numpy() > 0, carried)
    pointed = named(found, "parts 2, negatives 1 + expected mask").prompt
    assert (pointed.box, pointed.mask_logits is not None) == (None, True)
    assert not any("mask" in each.origin for each in proposed(BrightnessModel(("points", "box")), [view], 2, (1,))[0])


@pytest.mark.parametrize(
    ("trained", "forms"),
    [
        (("box",), {" + box"}),
        (("points", "box"), {"", " + box"}),
        (("points", "box", "mask"), {"", " + expected mask"}),
    ],
)
def test_points_are_given_in_the_forms_that_the_model_knows(trained: tuple[str, ...], forms: set[str]) -> None:
    model = BrightnessModel(trained)
    found = proposed(model, [view_of(model, disc(30), disc(25))], 2, (1,))[0]
    origins = {each.origin for each in found if each.origin.startswith("parts")}
    assert origins == {f"parts {count}, negatives 1{form}" for count in (1, 2) for form in forms}


def test_a_contour_as_a_mask_prompt_is_its_distance_as_logits() -> None:
    logits = mask_prompt(np.array([[-100.0, -3.0, 0.0, 1.5, 100.0]], np.float32))
    assert logits.tolist() == [[-6.0, -2.0, 0.0, 1.0, 6.0]]


@given(st.integers(0, 39), st.integers(0, 39), st.integers(1, 40), st.integers(1, 40), st.sampled_from([*BOX_SCALES, 2.0]))
def test_a_scaled_box_keeps_its_centre_and_stays_inside_the_image(
    x: int, y: int, width: int, height: int, scale: float
) -> None:
    mask = np.zeros((40, 40), dtype=bool)
    mask[y : y + height, x : x + width] = True
    x1, y1 = min(x + width, 40) - 1, min(y + height, 40) - 1
    low = np.array([(x + x1) / 2 - (x1 - x + 1) / 2 * scale, (y + y1) / 2 - (y1 - y + 1) / 2 * scale])
    high = np.array([(x + x1) / 2 + (x1 - x + 1) / 2 * scale, (y + y1) / 2 + (y1 - y + 1) / 2 * scale])
    box = bounding_box(mask, scale)
    assert box.dtype == np.float32
    np.testing.assert_allclose(box, np.clip(np.concatenate([low, high]), 0, 39), atol=1e-4)


# ------------------------------------------------------------------------------------------------------- what there is


def test_the_registered_contour_comes_first_and_no_model_made_it() -> None:
    model = BrightnessModel()
    first = proposed(model, [view_of(model, disc(30), disc(25))])[0][0]
    assert first.origin == REGISTERED
    np.testing.assert_array_equal(first.mask, disc(25))
    assert np.isnan(first.predicted_iou)
    assert first.prompt.box is None
    assert first.prompt.points is None


def test_a_registered_contour_of_distance_zero_is_a_candidate() -> None:
    model = BrightnessModel()
    view = view_of(model, disc(30), disc(25))
    view = replace(view, distance_mm=np.minimum(view.distance_mm, 0.0))
    np.testing.assert_array_equal(proposed(model, [view])[0][0].mask, disc(25))


def test_each_slice_has_each_kind_of_candidate_once() -> None:
    model = BrightnessModel()
    views = [view_of(model, disc(30), disc(25)), view_of(model, disc(20), disc(20))]
    parts = [f"parts {n}, negatives {m} + box" for n in (1, 2) for m in (0, 1)]
    boxes = ["box x0.7", "box x0.85", "box x1", "box x1.1", "box x1.25"]
    for proposals in proposed(model, views):
        names = [p.origin for p in proposals]
        assert names[: 2 + len(boxes)] == [REGISTERED, EXPECTED, *boxes]
        assert len(set(names)) == len(names)
        assert set(parts) <= set(names) <= {REGISTERED, EXPECTED, *boxes, *parts, "widened box"}


def test_no_more_parts_are_tried_than_the_reference_has_distinct_cells() -> None:
    model = BrightnessModel()
    one = np.ones((1, 7), dtype=np.float32)
    reference = Reference(one, np.zeros((5, 7), np.float32) + 0.1)
    names = [p.origin for p in proposed(model, [view_of(model, disc(30), disc(25))], 5, (0,), reference=reference)[0]]
    assert [n for n in names if n.startswith("parts")] == ["parts 1, negatives 0 + box"]


def test_each_answer_belongs_to_its_own_slice() -> None:
    """Two lesions in different places and, over all, more prompts than are decoded at once."""
    model = BrightnessModel()
    places = [60, 100, 140, 180, 120, 80, 160, 110]
    views = [view_of(model, disc(20, x), disc(20, x)) for x in places]
    result = proposed(model, views, 3, (0, 1))
    assert model.decoded > 4 * candidates.DECODE_BATCH
    for x, proposals in zip(places, result, strict=True):
        for proposal in proposals:
            assert np.nonzero(proposal.mask)[1].mean() == pytest.approx(x, abs=4), proposal.origin


def test_each_answer_is_the_one_to_its_own_prompt_and_in_the_order_in_which_they_were_made() -> None:
    model = BrightnessModel(("points", "box", "mask"))
    views = [view_of(model, disc(20, x), disc(20, x)) for x in (60, 160)]
    for view, proposals in zip(views, proposed(model, views, 2, (0, 1)), strict=True):
        names = [p.origin for p in proposals]
        assert names[:7] == [REGISTERED, EXPECTED, *(f"box x{scale:g}" for scale in BOX_SCALES)]
        for proposal in proposals[2:]:
            alone = model.decode(view.features[None], [proposal.prompt], (SIZE, SIZE))
            logits = model.upscale(alone.logits, (SIZE, SIZE))[0, 0].numpy()
            np.testing.assert_allclose(proposal.logits, logits, atol=1e-5, err_msg=proposal.origin)


def test_boxes_are_scaled_from_the_box_source_on_slices_beyond_the_ends() -> None:
    model = BrightnessModel()
    view = view_of(model, disc(30), np.zeros((SIZE, SIZE), bool), box_source=disc(25))
    proposals = proposed(model, [view])[0]
    for scale in BOX_SCALES:
        box = named(proposals, f"box x{scale:g}").prompt.box
        assert box is not None
        np.testing.assert_allclose(box, bounding_box(disc(25), scale))
    assert not proposals[0].mask.any()
    # No place is plausible there: the points fall into the box source.
    points = named(proposals, "parts 2, negatives 0 + box").prompt.points
    assert points is not None
    assert all(disc(25)[int(y), int(x)] for x, y in points)


def test_the_answers_are_the_same_every_time() -> None:
    model = BrightnessModel()
    view = view_of(model, disc(30), disc(25))
    first, second = proposed(model, [view])[0], proposed(model, [view])[0]
    assert [p.origin for p in first] == [p.origin for p in second]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.logits, b.logits)


def test_progress_counts_up_to_all_prompts() -> None:
    model = BrightnessModel()
    views = [view_of(model, disc(30), disc(25)) for _ in range(8)]
    seen: list[tuple[int, int]] = []
    propose(
        model, views, reference_of(model, disc(30)), 2, (0, 1), PLAUSIBLE_MM, lambda done, total: seen.append((done, total))
    )
    total = 8 * (len(BOX_SCALES) + 4)
    assert [t for _, t in seen] == [total] * len(seen)
    assert [d for d, _ in seen] == sorted({d for d, _ in seen})
    assert seen[-1] == (total, total)


# -------------------------------------------------------------------------------------------------------------- points


def test_a_model_trained_with_boxes_only_never_gets_points_without_a_box() -> None:
    model = BrightnessModel(("box",))
    for proposal in proposed(model, [view_of(model, disc(30), disc(25))])[0][2:]:
        assert proposal.prompt.box is not None


def test_a_model_trained_with_points_also_gets_them_alone() -> None:
    model = BrightnessModel(("points", "box"))
    proposals = proposed(model, [view_of(model, disc(30), disc(25))])[0]
    for name in ("parts 1, negatives 0", "parts 2, negatives 1"):
        alone, boxed = named(proposals, name).prompt, named(proposals, f"{name} + box").prompt
        assert alone.box is None
        assert boxed.box is not None
        assert alone.points is not None
        assert boxed.points is not None
        np.testing.assert_array_equal(alone.points, boxed.points)
        np.testing.assert_array_equal(alone.labels, boxed.labels)


@pytest.mark.parametrize("plausible_mm", [1.0, 15.0])
def test_positive_points_lie_in_the_plausible_zone_and_negative_ones_away(plausible_mm: float) -> None:
    """The same bright lesion lies twice on the slice; the carried contour shows only one of them, and not quite."""
    model = BrightnessModel()
    view = view_of(model, disc(25, 60) | disc(25, 190), disc(25, 68))
    seen = {0: 0, 1: 0}
    for proposal in proposed(model, [view], 3, (0, 2), plausible_mm)[0]:
        prompt = proposal.prompt
        if prompt.points is None or prompt.labels is None:
            continue
        for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
            distance = view.distance_mm[int(y), int(x)]
            seen[int(label)] += 1
            assert distance > -plausible_mm if label == 1 else distance < -NEGATIVE_CLEARANCE_MM
    assert seen[1] > 0
    assert seen[0] > 0


def test_the_labels_count_the_points_that_the_name_says() -> None:
    model = BrightnessModel()
    proposals = proposed(model, [view_of(model, disc(30), disc(25))], 2, (0, 1))[0]
    labels = {p.origin: [] if p.prompt.labels is None else p.prompt.labels.tolist() for p in proposals}
    assert labels["parts 1, negatives 0 + box"] == [1]
    assert labels["parts 2, negatives 0 + box"] == [1, 1]
    assert labels["parts 2, negatives 1 + box"] == [1, 1, 0]


def test_without_background_there_are_no_negative_points() -> None:
    model = BrightnessModel()
    reference = Reference(np.eye(3, 7, dtype=np.float32), np.zeros((0, 7), np.float32))
    labels = named(
        proposed(model, [view_of(model, disc(30), disc(25))], 2, (1,), reference=reference)[0], "parts 2, negatives 1 + box"
    ).prompt.labels
    assert labels is not None
    assert labels.tolist() == [1, 1]


# ---------------------------------------------------------------------------------------------------------- widened box


class FixedAnswer(BrightnessModel):
    """Answers every prompt with the same mask."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self.mask = mask

    def decode(
        self, features: torch.Tensor, prompts: Sequence[PromptSet], image_size: tuple[int, int], *, multimask: bool = False
    ) -> Decoded:
        del features, image_size, multimask
        logits = torch.from_numpy(np.where(self.mask, 4.0, -4.0).astype(np.float32))
        return Decoded(logits.repeat(len(prompts), 1, 1, 1), torch.ones(len(prompts), 1))


def rectangle(x0: int, y0: int, x1: int, y1: int) -> Mask:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


def widened(answer: Mask, source: Mask) -> NDArray[np.float32] | None:
    model = FixedAnswer(answer)
    proposals = proposed(model, [view_of(model, source, source)])[0]
    boxes = [p.prompt.box for p in proposals if p.origin == "widened box"]
    assert len(boxes) <= 1
    return boxes[0] if boxes else None


@pytest.mark.parametrize(
    ("answer", "moved"),
    [
        (rectangle(100, 110, 130, 150), (-1, 0, 0, 0)),
        (rectangle(110, 100, 140, 130), (0, -1, 0, 0)),
        (rectangle(110, 110, 159, 140), (0, 0, 1, 0)),
        (rectangle(110, 110, 140, 159), (0, 0, 0, 1)),
        (rectangle(80, 80, 180, 180), (-1, -1, 1, 1)),
        (rectangle(110, 110, 150, 150), (0, 0, 0, 0)),
    ],
    ids=["left", "top", "right", "bottom", "all", "none"],
)
def test_only_the_sides_that_the_mask_touches_move_out(answer: Mask, moved: tuple[int, int, int, int]) -> None:
    source = rectangle(100, 100, 159, 159)
    box = widened(answer, source)
    if not any(moved):
        assert box is None
        return
    assert box is not None
    moves = box - bounding_box(source)
    assert np.sign(moves).tolist() == list(moved)
    assert np.abs(moves[moves != 0]) == pytest.approx(12.0, abs=0.5)


def test_a_mask_that_touches_a_side_with_its_tip_only_does_not_move_it() -> None:
    source = rectangle(100, 100, 159, 159)
    assert widened(rectangle(110, 110, 150, 150) | rectangle(100, 126, 110, 130), source) is None


def test_an_empty_answer_is_not_widened() -> None:
    assert widened(np.zeros((SIZE, SIZE), bool), rectangle(100, 100, 159, 159)) is None


def test_a_widened_box_stays_inside_the_image() -> None:
    box = widened(rectangle(0, 0, 60, 60), rectangle(0, 0, 60, 60))
    assert box is not None
    assert box.min() >= 0
    assert box[2] > 61
    assert box[3] > 61


@settings(max_examples=15)
@given(st.integers(20, 60), st.integers(5, 60))
def test_a_lesion_that_grew_out_of_its_box_is_found_by_widening(carried: int, growth: int) -> None:
    model = BrightnessModel()
    shown = disc(carried + growth)
    proposals = proposed(model, [view_of(model, shown, disc(carried))], 1, (0,))[0]
    wide, plain = named(proposals, "widened box").mask, named(proposals, "box x1").mask
    assert (wide & shown).sum() > (plain & shown).sum()
