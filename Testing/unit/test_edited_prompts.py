"""A person's prompts are what the model is asked, on the edited slices and beside them, and what it does not follow is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from P2SAMSlicerLib import review
from P2SAMSlicerLib.edited_prompts import (
    BESIDE_EDITED,
    EDITED,
    NOT_OBEYED,
    EditedPrompts,
    judged_beside,
    notes_of,
    points_not_obeyed,
    redecode,
)
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.models.encode_cache import EncodeCache
from P2SAMSlicerLib.models.protocol import Decoded, PromptSet
from P2SAMSlicerLib.result import SliceResult
from P2SAMSlicerLib.slice_plane import prompts_from_lps
from P2SAMSlicerLib.slice_record import slice_from_plain, slice_to_plain
from recorded_slices import FIRST, GRID, RADIUS, SECOND, followup, recorded
from stub_model import BrightnessModel

ALL = ("points", "box", "mask")
#: In the lesion, and outside the recorded contour.
RIM = (FIRST[0] + 7.0, FIRST[1])


class Asked(BrightnessModel):
    """Remembers what it was asked; where it is stubborn, it answers a mask prompt with that mask whatever the points say."""

    def __init__(self, trained: tuple[str, ...] = ALL, stubborn: bool = False) -> None:
        super().__init__(trained, tolerance=0.2)
        self.prompts: list[PromptSet] = []
        self.stubborn = stubborn

    def decode(self, features: Any, prompts: Sequence[PromptSet], image_size: Any, *, multimask: bool = False) -> Decoded:
        self.prompts += prompts
        answer = super().decode(features, prompts, image_size, multimask=multimask)
        for row, prompt in enumerate(prompts):
            if self.stubborn and prompt.mask_logits is not None:
                answer.logits[row] = prompt.mask_logits
        return answer


def pixel(each: SliceResult, x: float, y: float) -> list[float]:
    """A voxel's place on a slice's image."""
    found: list[float] = prompts_from_lps(GRID.to_physical(np.array([[x, y, each.index]])), each, GRID)[0].tolist()
    return found


def edit(each: SliceResult, positive: Sequence[Any] = (FIRST,), negative: Sequence[Any] = (), **fields: Any) -> EditedPrompts:
    """Points at voxels of the follow-up."""
    points = np.array([pixel(each, *place) for place in (*positive, *negative)], np.float32).reshape(-1, 2)
    labels = np.repeat([1, 0], [len(positive), len(negative)]).astype(np.int64)
    return EditedPrompts(each.index, points, labels, lesion=each.lesion, **fields)


def area(each: SliceResult) -> float:
    """Of the chosen contour, in voxels."""
    assert each.best is not None
    assert each.region is not None
    return float(each.best.mask.sum() * each.region.pixel_mm**2 / 1.5**2)


def test_the_edited_slice_gets_the_answer_to_its_points_as_its_choice() -> None:
    volume, slices = followup(), recorded(followup())
    box = np.array([*pixel(slices[1], 15.0, 20.0), *pixel(slices[1], 35.0, 40.0)], np.float32)
    (only,) = redecode(Asked(("points", "box")), volume, slices, [edit(slices[1], box=box)])
    assert only.best is not None
    assert only.best.origin == EDITED
    assert only.candidates[:-1] == slices[1].candidates
    assert area(only) == pytest.approx(np.pi * RADIUS**2, rel=0.1)
    assert points_not_obeyed(only.best) == ()
    assert notes_of([only]) == ()
    assert only.signals[NOT_OBEYED] == 0.0
    assert only.review_priority == review.priority({k: v for k, v in only.signals.items() if k != NOT_OBEYED})
    assert (only.index, only.lesion, only.region, only.greys) == (3, 1, slices[1].region, slices[1].greys)


def test_a_model_that_knows_masks_is_shown_the_present_contour_and_asked_about_the_neighbours() -> None:
    volume, slices, model = followup(), recorded(followup()), Asked()
    changed = redecode(model, volume, slices, [edit(slices[1], [FIRST, RIM])])
    assert [each.index for each in changed] == [2, 3, 4]
    assert [each.best.origin for each in changed if each.best] == [BESIDE_EDITED, EDITED, BESIDE_EDITED]
    with_mask, before, after = model.prompts  # obeyed at once, so not asked in other ways
    assert with_mask.mask_logits is not None
    assert ((with_mask.mask_logits[0] > 0).numpy() == slices[1].candidates[0].mask).all()
    assert with_mask.box is not None
    for prompt in (before, after):
        assert prompt.mask_logits is not None
        # Between the neighbour's own contour and the new one.
        assert slices[1].candidates[0].mask.sum() < int((prompt.mask_logits > 0).sum()) < changed[1].candidates[-1].mask.sum()
        assert prompt.box is not None
        assert prompt.points is not None
        np.testing.assert_array_equal(prompt.points, edit(slices[1], [FIRST, RIM]).points)


def test_a_neighbour_whose_contour_obeys_the_points_stays_as_it_is() -> None:
    volume, slices = followup(), recorded(followup())
    assert [each.index for each in redecode(Asked(), volume, slices, [edit(slices[1])])] == [3]


def test_a_point_changes_its_own_surroundings_and_not_the_far_side_of_the_lesion() -> None:
    volume = followup()
    slices = recorded(volume)
    middle = slices[1].candidates[0].mask
    wide = replace(slices[1].candidates[0], mask=np.asarray(np.roll(middle, -90, axis=1) | middle))
    slices[1] = replace(slices[1], candidates=(wide,))
    (only,) = redecode(Asked(("points", "box")), volume, slices, [edit(slices[1], [FIRST, RIM])])
    assert only.best is not None
    far = np.s_[:, :50]
    assert wide.mask[far].any()
    np.testing.assert_array_equal(only.best.mask[far], wide.mask[far])
    assert points_not_obeyed(only.best) == ()


def test_only_the_one_slice_on_either_side_is_asked_and_never_an_edited_an_absent_or_another_lesions() -> None:
    volume = followup(FIRST, SECOND)
    slices = recorded(volume, FIRST, SECOND)
    changed = redecode(Asked(), volume, slices, [edit(slices[0], [RIM])])
    assert [(each.lesion, each.index) for each in changed] == [(1, 2), (1, 3)]
    changed = redecode(Asked(), volume, slices, [edit(slices[0], [RIM]), edit(slices[1], [RIM])])
    assert [(each.index, each.best.origin) for each in changed if each.best] == [
        *((2, EDITED), (3, EDITED), (4, BESIDE_EDITED)),
    ]
    absent = recorded(volume, FIRST, absent=(3,))
    assert [each.index for each in redecode(Asked(), volume, absent, [edit(absent[0], [RIM])])] == [2]


def test_a_slice_that_a_person_edited_before_stays_when_its_neighbour_is_edited() -> None:
    volume, slices = followup(), recorded(followup())
    slices[1] = redecode(Asked(), volume, slices, [edit(slices[1])])[0]
    assert [each.index for each in redecode(Asked(), volume, slices, [edit(slices[0], [RIM])])] == [2]


def test_editing_again_takes_the_place_of_the_earlier_answer_and_shows_the_model_that_answer() -> None:
    volume, slices = followup(), recorded(followup())
    (first,) = redecode(Asked(("points", "box")), volume, slices, [edit(slices[1])])
    slices[1] = first
    model = Asked()
    again = redecode(model, volume, slices, [edit(slices[1], negative=[(40.0, 30.0)])])[0]
    assert [each.origin for each in again.candidates].count(EDITED) == 1
    assert len(again.candidates) == len(first.candidates)
    assert model.prompts[0].mask_logits is not None
    assert first.best is not None
    assert ((model.prompts[0].mask_logits[0] > 0).numpy() == first.best.mask).all()


def test_where_the_shown_contour_holds_the_model_back_the_answer_without_it_is_taken() -> None:
    volume, slices = followup(), recorded(followup())
    model = Asked(stubborn=True)
    changed = redecode(model, volume, slices, [edit(slices[1], [FIRST, RIM])])
    asked = model.prompts[:3]
    assert [prompt.mask_logits is None for prompt in asked] == [False, True, False]
    assert [prompt.box is None for prompt in asked] == [False, False, True]
    assert changed[1].best is not None
    assert points_not_obeyed(changed[1].best) == ()
    assert np.pi * 6.0**2 < area(changed[1]) < np.pi * RADIUS**2
    (obeyed,) = redecode(Asked(stubborn=True), volume, slices, [edit(slices[1])])
    assert obeyed.best is not None
    assert (obeyed.best.mask == slices[1].candidates[0].mask).all()


def test_points_that_the_model_does_not_follow_are_told_and_come_first_in_the_review() -> None:
    volume, slices = followup(), recorded(followup())
    dark, inside = (FIRST[0] + 14.0, FIRST[1]), (FIRST[0] - 3.0, FIRST[1])
    changed = redecode(Asked(("box",)), volume, slices, [edit(slices[1], [FIRST, dark], [inside])])
    best = changed[0].best
    assert best is not None
    assert points_not_obeyed(best) == (1,)
    assert changed[0].signals[NOT_OBEYED] == pytest.approx(1 / 3)
    assert changed[0].review_priority == 1.0
    assert notes_of(changed) == ("slice 3: the contour does not follow 1 in the lesion of 3 points",)
    saved = slice_from_plain(slice_to_plain(changed[0]))
    assert notes_of([saved]) == notes_of(changed)


def test_a_model_that_knows_boxes_only_gets_a_box_around_contour_and_points_and_leaves_the_neighbours_alone() -> None:
    volume, slices, model = followup(), recorded(followup()), Asked(("box",))
    far = (FIRST[0] + 10.0, FIRST[1])
    changed = redecode(model, volume, slices, [edit(slices[1], [far])])
    assert [each.index for each in changed] == [3]
    (prompt,) = model.prompts
    assert prompt.mask_logits is None
    assert prompt.points is not None
    assert prompt.box is not None
    columns = np.flatnonzero(slices[1].candidates[0].mask.any(axis=0))
    assert prompt.box[0] <= columns[0]
    assert prompt.box[2] >= prompt.points[0, 0] > columns[-1]


def test_a_box_alone_is_enough_and_is_the_persons_own() -> None:
    volume, slices, model = followup(), recorded(followup()), Asked()
    box = np.array([*pixel(slices[1], 17.0, 22.0), *pixel(slices[1], 33.0, 38.0)], np.float32)
    changed = redecode(model, volume, slices, [edit(slices[1], (), box=box)])
    np.testing.assert_array_equal(model.prompts[0].box, box)
    assert model.prompts[0].points is None
    assert len(changed) == 3
    assert NOT_OBEYED not in changed[1].signals


def test_whole_slices_of_paper_mode_can_be_edited() -> None:
    volume = followup()
    slices = recorded(volume, whole=True)
    points = EditedPrompts(3, np.array([FIRST], np.float32), np.array([1]))
    (only,) = redecode(Asked(("points", "box")), volume, slices, [points])
    assert only.best is not None
    assert only.best.mask.shape == GRID.shape[1:]
    assert only.best.mask.sum() == pytest.approx(np.pi * RADIUS**2, rel=0.2)


def test_slices_that_were_saved_and_loaded_give_the_same_answer() -> None:
    volume, slices = followup(), recorded(followup())
    saved = [slice_from_plain(slice_to_plain(each)) for each in slices]
    for one, other in zip(
        redecode(Asked(), volume, slices, [edit(slices[1], [RIM])]),
        redecode(Asked(), volume, saved, [edit(saved[1], [RIM])]),
        strict=True,
    ):
        assert slice_to_plain(one) == slice_to_plain(other)


def test_a_second_edit_encodes_nothing() -> None:
    volume, slices = followup(), recorded(followup())
    model = EncodeCache(Asked())
    redecode(model, volume, slices, [edit(slices[1], [RIM])])
    assert model.encoded == 3
    redecode(model, volume, slices, [edit(slices[1], [RIM], negative=[(40.0, 30.0)])])
    assert model.encoded == 3


def nothing_there(model: BrightnessModel) -> BrightnessModel:
    def decode(_features: Any, prompts: Sequence[PromptSet], _size: Any, *, multimask: bool = False) -> Decoded:
        del multimask
        return Decoded(torch.full((len(prompts), 1, 256, 256), -4.0), torch.zeros((len(prompts), 1)))

    model.decode = decode  # type: ignore[method-assign, assignment]
    return model


def test_a_model_that_finds_nothing_is_told_in_words_and_does_not_take_the_neighbours_away() -> None:
    volume, slices = followup(), recorded(followup())
    changed = redecode(nothing_there(Asked()), volume, slices, [edit(slices[1], [RIM])])
    assert [each.index for each in changed] == [3]
    assert notes_of(changed) == ("slice 3: the model finds no lesion with these prompts",)
    assert changed[0].review_priority == 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"index": 5}, "slice 5, lesion 1: the model was not asked there"),
        ({"lesion": 2}, "slice 3, lesion 2: the model was not asked there"),
        ({"points": np.array([[300.0, 3.0]], np.float32)}, "outside of what the model sees"),
        ({"points": np.array([[-3.0, 3.0]], np.float32)}, "outside of what the model sees"),
        ({"points": np.array([[np.nan, 3.0]], np.float32)}, "is no number"),
        ({"points": np.zeros((2, 2), np.float32)}, "do not fit"),
        ({"labels": np.array([2])}, "neither 1"),
        ({"labels": np.array([0])}, "nothing to look for"),
        ({"points": np.zeros((0, 2), np.float32), "labels": np.zeros(0, np.int64)}, "nothing to look for"),
        ({"box": np.array([9, 9, 9, 20], np.float32)}, "the box is empty"),
        ({"box": np.array([9, 9, 900, 20], np.float32)}, "outside of what the model sees"),
    ],
)
def test_an_edit_that_means_nothing_is_refused_before_the_model_is_asked(fields: dict[str, Any], message: str) -> None:
    volume, slices, model = followup(), recorded(followup()), Asked()
    with pytest.raises(InputError, match=message):
        redecode(model, volume, slices, [replace(edit(slices[1]), **fields)])
    assert model.encoded == 0


def test_no_edit_two_edits_of_a_slice_and_records_without_greys_are_refused() -> None:
    volume, slices = followup(), recorded(followup())
    with pytest.raises(InputError, match="no edited prompts"):
        redecode(Asked(), volume, slices, [])
    with pytest.raises(InputError, match="edited twice"):
        redecode(Asked(), volume, slices, [edit(slices[1]), edit(slices[1])])
    old = [replace(each, greys=None) for each in slices]
    with pytest.raises(InputError, match="carry the contours again"):
        redecode(Asked(), volume, old, [edit(old[1])])


def signalled(each: SliceResult, **signals: float) -> SliceResult:
    return replace(each, signals={review.NEIGHBOURS: 0.0, "blurred border": 0.4, **signals}, review_priority=0.2)


def test_how_much_the_visits_differ_is_told_along_the_new_contour_and_not_the_old_one() -> None:
    volume, slices = followup(), recorded(followup())
    region = slices[1].region
    assert region is not None
    rows, columns = np.indices(slices[1].candidates[0].mask.shape)
    x, y = pixel(slices[1], *FIRST)
    apart_mm = np.hypot(columns - x, rows - y) * region.pixel_mm
    change = np.where(apart_mm < 1.5 * (RADIUS + 1.0), 0.0, 6.0).astype(np.float32)  # all around the lesion as it is now
    kept = replace(slices[1], change=review.change_to_record(change), signals={review.VISITS_DIFFER: 0.0})
    (only,) = redecode(Asked(("points", "box")), volume, [slices[0], kept, slices[2]], [edit(kept, [FIRST, RIM])])
    assert only.best is not None
    exact = review.slice_signals(only.best.mask, [], [], only.best.mask, change, region.pixel_mm, change)[review.VISITS_DIFFER]
    assert exact > 0.15
    assert only.signals[review.VISITS_DIFFER] == pytest.approx(exact, abs=0.03)
    np.testing.assert_array_equal(only.change, kept.change)  # for the next edit
    # A record that does not keep it: the old figure, rather than none.
    old = replace(slices[1], signals={review.VISITS_DIFFER: 0.625})
    (only,) = redecode(Asked(("points", "box")), volume, [slices[0], old, slices[2]], [edit(old, [FIRST, RIM])])
    assert only.signals[review.VISITS_DIFFER] == 0.625


def test_the_slices_beside_an_edited_one_keep_their_contour_and_are_judged_by_the_new_neighbour() -> None:
    volume = followup(FIRST, SECOND)
    slices = [signalled(each) for each in recorded(volume, FIRST, SECOND)]
    slices[2] = signalled(slices[2], **{NOT_OBEYED: 0.5})
    changed = redecode(Asked(("points", "box")), volume, slices, [edit(slices[1], [FIRST, RIM])])
    assert [(each.lesion, each.index) for each in changed] == [(1, 3)]
    before, after = judged_beside(slices, changed)
    for found, own in ((before, slices[0]), (after, slices[2])):
        assert (found.lesion, found.index, found.candidates, found.chosen) == (1, own.index, own.candidates, own.chosen)
        assert found.signals[review.NEIGHBOURS] > 0.1
        assert {**found.signals, review.NEIGHBOURS: 0.0} == own.signals
    assert before.review_priority == review.priority(before.signals)
    assert after.review_priority == 1.0  # points that are not obeyed stay so
    # The same again changes nothing more, and neither does an update that changed both.
    now = {(each.lesion, each.index): each for each in (*slices, *changed, before, after)}
    assert judged_beside(list(now.values()), changed) == ()


def test_slices_without_that_signal_or_without_candidates_are_not_judged_again() -> None:
    volume, slices = followup(), recorded(followup())
    changed = redecode(Asked(("points", "box")), volume, slices, [edit(slices[1], [FIRST, RIM])])
    assert judged_beside(slices, changed) == ()
    bare = [replace(signalled(slices[0]), candidates=(), chosen=None), slices[1], signalled(slices[2])]
    assert [each.index for each in judged_beside(bare, changed)] == [4]


def test_an_absent_slice_beside_an_edited_one_is_judged_as_empty() -> None:
    volume = followup()
    slices = [signalled(each) for each in recorded(volume, FIRST, absent=(4,))]
    changed = redecode(Asked(("points", "box")), volume, slices, [edit(slices[1], [FIRST, RIM])])
    found = {each.index: each.signals[review.NEIGHBOURS] for each in judged_beside(slices, changed)}
    assert found[4] == 1.0
    assert 0.0 < found[2] < 1.0


def test_what_was_removed_from_or_painted_into_the_segment_stays_so_away_from_the_points() -> None:
    volume, slices = followup(), recorded(followup())
    chosen = slices[1].candidates[0].mask
    shown = chosen.copy()
    far = np.s_[:, :20]
    shown[120:136, 2:18] = True  # painted, far from the point
    assert not chosen[far].any()
    model = Asked(("points", "box"))
    (only,) = redecode(model, volume, slices, [edit(slices[1], [FIRST, RIM])], {(1, 3): shown})
    assert only.best is not None
    np.testing.assert_array_equal(only.best.mask[far], shown[far])
    assert points_not_obeyed(only.best) == ()
    np.testing.assert_array_equal(only.candidates[0].mask, chosen)  # the record of the run stays as it was
    # A contour that somebody erased is not there, and an absent one is not made present by what is shown.
    asked = Asked()
    redecode(asked, volume, slices, [edit(slices[1])], {(1, 3): np.zeros_like(chosen)})
    assert asked.prompts[0].mask_logits is None
    absent = recorded(volume, FIRST, absent=(3,))
    assert [each.index for each in redecode(Asked(), volume, absent, [edit(absent[0], [RIM])], {(1, 3): shown})] == [2]


def test_a_part_that_the_engine_removed_comes_back_less_with_an_edit_elsewhere() -> None:
    volume, slices = followup(), recorded(followup())
    shown = slices[1].candidates[0].mask.copy()
    columns = np.flatnonzero(shown.any(axis=0))
    shown[:, : columns[0] + 25] = False
    removed = np.s_[:, : columns[0] + 25]
    asked = ([edit(slices[1], [FIRST, RIM])], {(1, 3): shown})
    (with_it,) = redecode(Asked(("points", "box")), volume, slices, *asked)
    (without,) = redecode(Asked(("points", "box")), volume, slices, asked[0])
    assert with_it.best is not None
    assert without.best is not None
    assert with_it.best.mask[removed].sum() < 0.8 * without.best.mask[removed].sum()
