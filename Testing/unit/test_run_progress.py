"""The share of a run only grows, ends at the whole, and the remaining time follows from it."""

from __future__ import annotations

import pytest
from P2SAMSlicerLib.run_progress import STAGES, ProgressEstimate, RunProgress, duration


def steps(followups: int, lesions: int) -> list[tuple[str, int, int]]:
    """What the engine tells on a run."""
    told = [("reading", n, 3) for n in range(4)] + [("model", n, 1) for n in range(2)]
    for _ in range(followups):
        told += [("registration", n, 4) for n in range(5)]
        for _ in range(lesions):
            told += [(stage, n, 20) for stage in ("encode", "decode", "choose") for n in range(1, 21)]
    return told


@pytest.mark.parametrize(("followups", "segments", "lesions"), [(1, 1, 1), (3, 2, 2), (2, 1, 4), (1, 3, 1)])
def test_the_share_grows_and_never_falls(followups: int, segments: int, lesions: int) -> None:
    estimate = ProgressEstimate(followups, segments)
    shares = [estimate.step(*step, "", 1.0).share for step in steps(followups, lesions)]
    assert shares == sorted(shares)
    assert 0.0 <= shares[0] <= shares[-1] <= 1.0
    if lesions == segments:
        assert shares[-1] == pytest.approx(1.0)


def test_half_way_through_two_followups_the_second_registration_begins() -> None:
    estimate = ProgressEstimate(2, 1)
    told = steps(2, 1)
    second = [number for number, step in enumerate(told) if step[:2] == ("registration", 0)][1]
    share = [estimate.step(*step, "", 1.0).share for step in told][second]
    assert share == pytest.approx(0.53, abs=0.01)


def test_the_remaining_time_goes_by_the_time_taken_so_far() -> None:
    estimate = ProgressEstimate(1, 1)
    assert estimate.step("reading", 1, 3, "", 1.0).remaining_s is None
    found = [estimate.step(*step, "", 30.0) for step in steps(1, 1)]
    for each in found:
        if each.remaining_s is not None:
            assert each.remaining_s == pytest.approx(30.0 * (1 - each.share) / each.share)
    assert found[-1].remaining_s == pytest.approx(0.0)


def test_paper_modes_one_stage_counts_as_the_whole_of_a_segment() -> None:
    estimate = ProgressEstimate(1, 2)
    told = [("registration", 4, 4), *(("segment", n, 10) for _ in range(2) for n in range(1, 11))]
    found = [estimate.step(*step, "", 1.0) for step in told]
    assert found[10].share == pytest.approx((0.36 + 1.0) / 2)
    assert found[-1].share == pytest.approx(1.0)
    assert found[-1].stage == "segmenting slices"


def test_an_unknown_stage_is_named_and_changes_no_share() -> None:
    estimate = ProgressEstimate(1, 1)
    before = estimate.step("encode", 10, 20, "", 5.0).share
    found = estimate.step("polishing", 1, 2, "", 5.0)
    assert (found.stage, found.share) == ("polishing", before)


def test_the_words_say_stage_slices_lesion_and_time() -> None:
    progress = RunProgress("encoding slices", 7, 40, "follow-up 2 of 3 lesion 1", 0.4, 75.2)
    assert progress.in_words() == "encoding slices 7 of 40 (follow-up 2 of 3 lesion 1), about 75 s left"
    assert RunProgress("registering", 0, 0, "", 0.1, None).in_words() == "registering"
    assert [duration(seconds) for seconds in (0.0, 89.0, 91.0, 600.0)] == ["1 s", "89 s", "2 min", "10 min"]


def test_the_usual_shares_of_the_stages_are_a_whole() -> None:
    assert sum(weight for _words, weight in STAGES.values()) == pytest.approx(1.0)
