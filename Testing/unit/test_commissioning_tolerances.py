"""Tolerance files: what they may say, what is refused, and in how many words."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.commissioning.figures import FIGURES, Better, is_statistic, statistic_of
from P2SAMSlicerLib.commissioning.tolerances import (
    EXAMPLE,
    LARGEST_BYTES,
    Tolerance,
    default_tolerances,
    read_tolerances,
)
from P2SAMSlicerLib.errors import InputError


def read(tmp_path: Path, text: str) -> object:
    file = tmp_path / "limits.toml"
    file.write_text(text, encoding="utf-8")
    return read_tolerances(file)


# ------------------------------------------------------------------------------------------------------------------- files
def test_the_example_is_what_is_used_without_a_file_and_is_never_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "limits.toml"
    assert main(["commission", "--write-tolerances", str(file)]) == 0
    assert file.read_text(encoding="utf-8") == EXAMPLE
    assert read_tolerances(file) == default_tolerances()
    file.write_text("mine")
    assert main(["commission", "--write-tolerances", str(file)]) == 2
    assert "limits.toml: there already" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert main(["commission", "--write-tolerances", str(tmp_path / "nowhere" / "limits.toml")]) == 2


def test_the_example_calls_itself_a_starting_point_and_no_endorsement() -> None:
    assert "starting points and no endorsement" in " ".join(EXAMPLE.replace("#", "").split())
    assert "TG-132" in EXAMPLE
    assert default_tolerances().least_cases == 5


def test_a_site_replaces_the_limits_it_names_and_keeps_the_others(tmp_path: Path) -> None:
    found = read_tolerances(
        _written(tmp_path, "[dice]\nmean_at_least=0.8\nworst_at_least=0.5\n[site.lung.dice]\nmean_at_least=0.9")
    )
    assert {(each.statistic, each.limit) for each in found.for_site("lung") if each.figure == "dice"} == {
        ("mean", 0.9),
        ("worst", 0.5),
    }
    assert found.for_site("brain") == found.usual


def test_failures_are_judged_even_where_the_file_does_not_name_them(tmp_path: Path) -> None:
    found = read_tolerances(_written(tmp_path, "[dice]\nmean_at_least = 0.8"))
    assert Tolerance("failed_visits", "total", 0.0) in found.usual
    found = read_tolerances(_written(tmp_path, "[failed_visits]\nat_most = 2"))
    assert [each.limit for each in found.usual] == [2.0]


def _written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "limits.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no tolerance"),
        ("least_cases = 5", "holds no tolerance"),
        ("dice = 0.8", r"\[dice\] must be a table"),
        ("[dice]", r"\[dice\] must be a table"),
        ("[dise]\nmean_at_least = 0.8", "'dise' is no figure; known: dice,"),
        ("[dice]\nmean = 0.8", "'mean' is no limit"),
        ("[dice]\nmean_at_best = 0.8", "is no limit"),
        ("[dice]\naverage_at_least = 0.8", "is no limit"),
        ("[dice]\np0_at_least = 0.8", "is no limit"),
        ("[dice]\np100_at_least = 0.8", "is no limit"),
        ("[dice]\nat_least = 0.8", "is no limit"),
        ("[dice]\nmean_at_most = 0.8", "more is better here"),
        ("[hd95_mm]\nmean_at_least = 3", "less is better here"),
        ("[dice]\nmean_at_least = 80", "from 0 to 1"),
        ("[dice]\nmean_at_least = -0.1", "from 0 to 1"),
        ("[dice]\nmean_at_least = nan", "must be a number"),
        ("[hd95_mm]\nmean_at_most = inf", "must be a number"),
        ("[dice]\nmean_at_least = true", "must be a number"),
        ('[dice]\nmean_at_least = "0.8"', "must be a number"),
        (f"[seconds]\nworst_at_most = {'9' * 400}", "must be a number"),
        ("[flagged_share]\nmean_at_most = 0.5", "is no limit; it is written at_most"),
        ("[failed_visits]\nat_least = 1", "less is better"),
        ("least_cases = 1\n[dice]\nmean_at_least = 0.8", "least_cases must be a whole number from 3"),
        ("least_cases = 4.5\n[dice]\nmean_at_least = 0.8", "least_cases must be"),
        ("least_cases = true\n[dice]\nmean_at_least = 0.8", "least_cases must be"),
        ("site = 3\n[dice]\nmean_at_least = 0.8", r"\[site\] must hold"),
        ("[site]\nlung = 3", r"\[site.lung\] is no site"),
        ('[site."<b>".dice]\nmean_at_least = 0.8', "is no site"),
        ("[site.lung.dise]\nmean_at_least = 0.8", "site lung: 'dise' is no figure"),
        ("[dice\nmean_at_least = 0.8", "not TOML"),
        ("[dice]\nmean_at_least = 0.8\nmean_at_least = 0.9", "not TOML"),
        ('["di\\nce\\u202e"]\nmean_at_least = 0.8', r"'di\?ce\?' is no figure"),
    ],
)
def test_what_no_clinic_means_is_refused_in_one_line_that_names_it(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        read(tmp_path, text)
    assert str(refused.value).startswith("limits.toml: ")
    assert "\n" not in str(refused.value)


def test_files_that_are_no_text_are_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    with pytest.raises(InputError, match=r"limits\.toml: cannot be read \(no such file"):
        read_tolerances(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_tolerances(tmp_path)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_tolerances(file)
    file.write_bytes(b"#" * (LARGEST_BYTES + 1))
    with pytest.raises(InputError, match="too large"):
        read_tolerances(file)
    file.write_bytes(b"a=" + b"[" * 50_000)
    with pytest.raises(InputError, match="not TOML"):
        read_tolerances(file)


WORD = st.sampled_from(
    ["dice", "hd95_mm", "site", "lung", "failed_visits", "mean_at_least", "worst_at_most", "at_most", "x", "\u202e"]
)
VALUE = st.sampled_from(
    ["0.5", "1e999", "-0.0", "nan", "true", "[]", "{}", "{dice={}}", '"a\\n"', "1979-05-27", "9" * 400, "[[1", ""]
)
LINE = st.one_of(
    st.tuples(WORD, VALUE).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    st.lists(WORD, min_size=1, max_size=3).map(lambda words: f"[{'.'.join(words)}]"),
    st.lists(WORD, min_size=1, max_size=2).map(lambda words: f"[[{'.'.join(words)}]]"),
)


@given(st.lists(LINE, max_size=6).map("\n".join))
@example("[dice]\nmean_at_least=1e999")
def test_no_text_at_all_makes_anything_but_tolerances_or_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "limits.toml"
    file.write_text(text, encoding="utf-8")
    told = ""
    try:
        assert read_tolerances(file).usual
    except InputError as error:
        told = str(error)
    assert not re.search(r"[\x00-\x1f]", told)


# -------------------------------------------------------------------------------------------------------------- statistics
VALUES = st.lists(st.one_of(st.floats(0, 100), st.just(math.inf), st.just(math.nan)), min_size=1, max_size=12)
STATISTIC = st.one_of(st.sampled_from(["mean", "median", "worst"]), st.integers(1, 99).map(lambda n: f"p{n}"))
BETTER = st.sampled_from(["more", "less"])


def bettered(value: float, gain: float, better: Better) -> float:
    """A figure that is at least as good: of one that is not known, any."""
    if math.isnan(value):
        return gain
    return value + gain if better == "more" else max(0.0, value - gain)


@given(VALUES, st.lists(st.floats(0, 100), min_size=12, max_size=12), STATISTIC, BETTER, st.floats(0, 100))
def test_a_better_figure_never_turns_a_pass_into_a_fail(
    values: list[float], gains: list[float], statistic: str, better: Better, limit: float
) -> None:
    figure = "dice" if better == "more" else "hd95_mm"
    tolerance = Tolerance(figure, statistic, limit)
    if better == "more":
        values = [0.0 if math.isinf(value) else value for value in values]
    before = statistic_of(statistic, values, better)
    after = statistic_of(statistic, [bettered(v, g, better) for v, g in zip(values, gains, strict=False)], better)
    assert tolerance.met_by(after) or not tolerance.met_by(before)
    assert not math.isnan(after)


@given(VALUES, st.integers(1, 99), BETTER)
def test_a_percentile_is_reached_by_that_share_of_the_visits_and_is_one_of_them(
    values: list[float], percent: int, better: Better
) -> None:
    values = [value for value in values if math.isfinite(value)] or [1.0]
    found = statistic_of(f"p{percent}", values, better)
    assert found in values
    reached = sum(value >= found if better == "more" else value <= found for value in values)
    assert reached >= percent / 100 * len(values) - 1e-6
    worst = statistic_of("worst", values, better)
    assert worst == (min(values) if better == "more" else max(values))
    assert found >= worst if better == "more" else found <= worst


def test_a_figure_that_is_not_known_or_infinite_is_not_skipped() -> None:
    assert statistic_of("mean", [1.0, math.inf], "less") == math.inf
    assert statistic_of("mean", [0.9, math.nan], "more") == -math.inf
    assert statistic_of("worst", [0.9, math.nan], "more") == -math.inf
    assert statistic_of("p50", [1.0, 1.0, math.nan], "less") == 1.0
    assert not Tolerance("dice", "mean", 0.0).met_by(math.nan)


def test_a_limit_that_is_just_reached_is_kept() -> None:
    assert Tolerance("dice", "mean", 0.8).met_by(statistic_of("mean", [0.7, 0.9], "more"))
    assert Tolerance("folded_share", "worst", 0.0).met_by(0.0)
    assert not Tolerance("folded_share", "worst", 0.0).met_by(5e-324)


def test_every_figure_is_defined_and_says_its_direction() -> None:
    for figure in FIGURES.values():
        assert figure.low < figure.high
        assert len(figure.meaning) > 30
    assert not is_statistic("p100")
    assert not is_statistic("p07")
    assert is_statistic("p7")
