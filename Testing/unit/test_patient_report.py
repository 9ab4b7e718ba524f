"""A patient's report: what it says, what it must not say, hostile and damaged visits, and how a browser shows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import OutputError
from P2SAMSlicerLib.report import patient_report, trends
from P2SAMSlicerLib.report.patient_report import ReportIdentity, write_patient_report
from P2SAMSlicerLib.report.review_record import ReviewRecord
from test_report_page import Tags
from visit_folders import PRIOR, small_result, write_failed_visit, write_patient, write_visit_folder

REVIEWS = {
    "visit_2": [ReviewRecord("GTV", "accepted", "A. Physicist", "2026-01-01T10:00:00+00:00", 3.0, 3.2, 0.96, 0.4, 1.5, True)],
    "visit_4": [ReviewRecord("GTV", "rejected", "B. Physicist", "2026-01-02T10:00:00+00:00", 1.4, 1.4, 1.0, 0.0, 0.0, False)],
}
IDENTITY = ReportIdentity("Doe^Jane", "PID-4711", "19560203", {"visit_1": "20260101", "visit_2": "20260129"})


@pytest.fixture(scope="session")
def visited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Folders of four follow-ups, one of them failed."""
    return tuple(write_patient(tmp_path_factory.mktemp("patient")))


@pytest.fixture(scope="session")
def reported(visited: Sequence[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], Path]:
    """The usual report: page, content, file."""
    html, js = write_patient_report(tmp_path_factory.mktemp("report"), visited, prior=PRIOR, reviews=REVIEWS)
    return html.read_text(encoding="utf-8"), json.loads(js.read_text(encoding="utf-8")), html


@pytest.fixture(autouse=True)
def quick_plots(monkeypatch: pytest.MonkeyPatch) -> Callable[..., bytes]:
    """Plots are drawn for the usual report, which was made before, and where a test asks for the drawing."""
    draw = trends._draw
    png = b"\x89PNG\r\n\x1a\n"
    monkeypatch.setattr(trends, "_draw", lambda *_: png)
    return draw


def written(out: Path, folders: Sequence[Path], **options: Any) -> tuple[str, dict[str, Any]]:
    """Page and content of a report."""
    html, js = write_patient_report(out, folders, **{"prior": PRIOR, **options})
    return html.read_text(encoding="utf-8"), json.loads(js.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def words_of(page: str) -> str:
    """What a reader sees, pieces separated by blanks."""
    return " ".join(" ".join(Tags(page).texts).split())


def test_the_page_says_everything_that_a_physicist_has_to_know(reported: tuple[str, dict[str, Any], Path]) -> None:
    words = words_of(reported[0])
    for wanted in (
        "For research use only",
        "New lesions are not sought",
        "3 of 4 contours are UNREVIEWED",
        "It never says that a contour is right",
        "its volume changed by more than half",
        "visit 3, day 57",
        "slices 12 to 14 are missing",
        "no lesion found",
        "visit_4: its patient id is not that of visit_1",
        "Carried from UNREVIEWED contours",
        "What was not done",
        "A. Physicist",
        "2026-01-01 10:00:00 UTC",
        "visit_2_RTSTRUCT.dcm",
        "lite_medsam",
        "Signature",
        "2.5 L, 1.2 A, 3.0 S",
    ):
        assert wanted in words, wanted


def test_every_contour_says_unreviewed_unless_a_reviewer_accepted_it(reported: tuple[str, dict[str, Any], Path]) -> None:
    page, content, _ = reported
    states = {
        (visit["label"], each["segment"]): each["review"]["accepted"]
        for visit in content["visits"]
        for each in visit["segments"]
    }
    assert states == {
        ("visit_2", "GTV"): True,
        ("visit_4", "GTV"): False,
        ("visit_4", "node"): False,
        ("visit_5", "GTV"): False,
    }
    # Three places for each: summary, visit, review record.
    assert len(re.findall(r'class="badge bad">UNREVIEWED', page)) == 3 * 3
    assert page.count("UNREVIEWED (rejected)") == 3
    assert page.count("accepted, edited</span>") == 3


def test_a_reviewed_volume_takes_the_place_of_the_tools(reported: tuple[str, dict[str, Any], Path]) -> None:
    page, content, _ = reported
    (segment,) = content["visits"][0]["segments"]
    assert segment["volume_ml"] == 3.0
    assert segment["change_from_prior_percent"] == pytest.approx(-20.0)
    assert "3.00 (reviewed: 3.20)" in words_of(page)
    points = trends.trends(content)["GTV"]
    assert [(each.place, each.volume_ml, each.accepted) for each in points] == [
        (0.0, 4.0, True),
        (28.0, 3.2, True),
        (91.0, 1.4, False),
        (120.0, 3.0, False),
    ]


def test_every_figure_stands_beside_its_definition(reported: tuple[str, dict[str, Any], Path]) -> None:
    page, content, _ = reported
    words = words_of(page)
    for group, names in (
        ("segment", ("review_priority", "volume_change_percent", "centroid_shift_mm", "lost_tissue_share", "removals")),
        ("registration", ("kind",)),
        ("review", ("mean_surface_mm", "hd95_mm", "dice")),
        ("export", ("read_back_ml",)),
        ("report", ("change_from_prior_percent",)),
    ):
        for name in names:
            assert content["definitions"][group][name] in words, name


def test_the_content_is_strict_json_with_a_version(reported: tuple[str, dict[str, Any], Path]) -> None:
    content = reported[1]
    assert (content["format"], content["format_version"]) == ("P2SAMSlicer patient report", 1)
    assert [visit["outcome"] for visit in content["visits"]] == ["done", "failed", "done", "done"]
    assert [each["index"] for each in content["visits"][0]["segments"][0]["slices_to_look_at"]] == [5, 6]
    assert not any("candidates" in each for each in content["visits"][0]["segments"])


def test_pictures_lie_in_the_page_with_their_words(reported: tuple[str, dict[str, Any], Path]) -> None:
    page, content, _ = reported
    images = Tags(page).named("img")
    pictures = sum(len(each["pictures"]) for visit in content["visits"] for each in visit["segments"])
    assert len(images) == pictures + 1
    assert pictures == 5
    assert all(each["alt"] and str(each["src"]).startswith("data:image/png;base64,") for each in images)
    assert not re.search(r"https?:|file:|src=\"(?!data:)", re.sub(r"base64,[^\"]*", "", page))


def test_without_an_identity_no_name_id_or_date_is_in_it(visited: Sequence[Path], tmp_path: Path) -> None:
    prior = {**PRIOR, "patient_name": "Doe^Jane", "acquired": "20260101"}
    page, content = written(tmp_path, visited, prior=prior)
    for text in (page, json.dumps(content)):
        assert not re.search("Doe|Jane|PID-4711|19560203|20260101|1956|2026-0", re.sub(r"base64,[^\"]*", "", text))
    assert "ANONYMOUS" in page
    assert content["patient"] is None


def test_with_an_identity_the_report_says_that_it_is_identified(visited: Sequence[Path], tmp_path: Path) -> None:
    page, content = written(tmp_path, visited, identity=IDENTITY)
    words = words_of(page)
    for wanted in ("IDENTIFIED", "Doe^Jane", "PID-4711", "19560203", "visit 2, day 28, 20260129", "visit 1, day 0, 20260101"):
        assert wanted in words
    assert "ANONYMOUS" not in words
    assert content["patient"] == {"patient_name": "Doe^Jane", "patient_id": "PID-4711", "birth_date": "19560203"}


def test_a_users_own_transform_file_is_not_named(tmp_path: Path) -> None:
    result = small_result(provenance={"options": {"registration": "file", "transform_file": "Doe_Jane.tfm"}})
    page, content = written(tmp_path, [write_visit_folder(tmp_path, result)])
    assert "Doe_Jane" not in page + json.dumps(content)


HOSTILE = [
    "<script>alert(1)</script>",
    "</title></style><img src=x onerror=alert(1)>",
    'GTV" onload="alert(1)',
    "GTV\u202e\u200b\x1b[31m",
    "名前 ÄÖ 😀",
    "$x^{2}$ _legend",
    "x" * 20_000,
]


def test_hostile_names_stay_text_everywhere(tmp_path: Path) -> None:
    from small_visits import segment

    shape = None
    for number, words in enumerate((["a", "b", "c", "d", "e", "f", "g"], HOSTILE)):
        result = small_result(segments=[segment(name) for name in words], warnings=tuple(words))
        folder = write_visit_folder(tmp_path / str(number), result, notes=list(words), overrides=list(words))
        reviews = {"visit_2": [ReviewRecord(name, "accepted", name, name) for name in words]}
        page, content = written(tmp_path / str(number), [folder], reviews=reviews, identity=ReportIdentity(words[0], words[1]))
        tags = [(name, sorted(attributes)) for name, attributes in Tags(page).tags]
        assert shape is None or tags == shape
        shape = tags
        assert [each["segment"] for each in content["visits"][0]["segments"]] == words
        assert "x" * 1001 not in page


def damaged(folder: Path, damage: str) -> None:
    """Spoil a visit's folder in one way."""
    visit, summary = folder / "visit.json", folder / "summary.json"
    facts = json.loads(visit.read_text(encoding="utf-8"))
    if damage == "no visit.json":
        visit.unlink()
    elif damage == "cut":
        visit.write_text(visit.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    elif damage == "not text":
        visit.write_bytes(b"\xff\xfe\x00{")
    elif damage == "a list":
        visit.write_text("[1]", encoding="utf-8")
    elif damage == "nested":
        visit.write_text("[" * 100_000, encoding="utf-8")
    elif damage == "newer":
        visit.write_text(json.dumps({**facts, "format_version": 99}), encoding="utf-8")
    elif damage == "another's":
        visit.write_text(json.dumps({**facts, "format": "other"}), encoding="utf-8")
    elif damage == "no summary":
        summary.unlink()
    elif damage == "summary of others":
        summary.write_text(json.dumps({"followups": [{"segments": [{"segment": 7}]}]}), encoding="utf-8")
    elif damage == "a folder":
        summary.unlink()
        summary.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        *("no visit.json", "cut", "not text", "a list", "nested", "newer", "another's"),
        *("no summary", "summary of others", "a folder"),
    ],
)
def test_a_damaged_visit_is_told_of_and_does_not_stop_the_others(damage: str, tmp_path: Path) -> None:
    folders = [write_visit_folder(tmp_path, small_result(f"visit_{number}"), number=number) for number in (2, 3)]
    damaged(folders[0], damage)
    page, content = written(tmp_path, folders)
    assert [(each["label"], each["outcome"]) for each in content["visits"]] == [("visit_2", "unreadable"), ("visit_3", "done")]
    assert "visit_2: nothing was carried to it" in words_of(page)
    assert content["visits"][0]["reason"].startswith(("visit.json: ", "summary.json: "))
    assert str(tmp_path) not in page


def test_values_of_a_wrong_kind_are_left_out(tmp_path: Path) -> None:
    folder = write_visit_folder(
        tmp_path,
        small_result(),
        notes="no list",
        exports=[1, {"round_trip": [3, {"volume_ml": "much"}]}],
        references={"a": 1},
        day="yesterday",  # type: ignore[arg-type]
        number=10**30,
        reference_agreement=[1],
    )
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    (segment,) = summary["followups"][0]["segments"]
    segment.update(volume_ml="big", centroid_shift_mm=[1, 2], reasons=[1, "why"], registration=3, slices=[None, {"index": "x"}])
    summary["followups"][0].update(registration=[], options=4, model="x", warnings={"a": 1})
    (folder / "summary.json").write_text(json.dumps(summary).replace('"lost_tissue_share": null', '"lost_tissue_share": NaN'))
    page, content = written(tmp_path, [folder])
    (visit,) = content["visits"]
    assert (visit["day"], visit["number"], visit["notes"], visit["references"]) == (None, None, [], [])
    (shown,) = visit["segments"]
    assert (shown["volume_ml"], shown["centroid_shift_mm"], shown["reasons"]) == (None, None, ["why"])
    assert Tags(page).named("table")


@pytest.mark.parametrize(
    "file",
    ["../secret.png", "pictures/../../secret.png", "/etc/passwd", "pictures/link.png", "pictures/absent.png", "notes.txt", 7],
)
def test_a_visit_cannot_bring_a_file_from_elsewhere_into_the_report(file: Any, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    folder = write_visit_folder(tmp_path, small_result())
    (folder / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
    facts = json.loads((folder / "visit.json").read_text(encoding="utf-8"))
    facts["pictures"] = [{"file": file, "segment": "GTV", "caption": "c"}]
    (folder / "visit.json").write_text(json.dumps(facts), encoding="utf-8")
    page, content = written(tmp_path / "out", [folder])
    assert content["visits"][0]["segments"][0]["pictures"] == []
    assert len(Tags(page).named("img")) == 1


def test_a_folder_named_after_a_patient_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "Doe_Jane").mkdir()
    page, content = written(tmp_path / "out", [tmp_path / "Doe_Jane"])
    assert "Doe" not in page + json.dumps(content)
    assert content["visits"][0]["label"] == "visit ?"


def test_a_report_that_is_there_is_not_replaced_unless_asked(visited: Sequence[Path], tmp_path: Path) -> None:
    html, js = write_patient_report(tmp_path, visited[:1], prior=PRIOR)
    for path in (html, js):
        before = path.read_bytes()
        other = js if path is html else html
        kept = other.read_bytes()
        other.unlink()
        with pytest.raises(OutputError, match="there is a report already"):
            write_patient_report(tmp_path, visited, prior=PRIOR)
        assert path.read_bytes() == before
        other.write_bytes(kept)
    write_patient_report(tmp_path, visited, prior=PRIOR, overwrite=True)
    assert len(json.loads(js.read_text(encoding="utf-8"))["visits"]) == 4


def test_both_files_appear_or_none(visited: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write = Path.write_text

    def full(self: Path, *args: Any, **options: Any) -> int:
        if self.name == "report.json":
            raise OSError(28, "No space left on device")
        return write(self, *args, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="space"):
        write_patient_report(out, visited[:1], prior=PRIOR)
    assert list(tmp_path.iterdir()) == []


def test_many_pictures_are_left_out_by_doubt_and_that_is_said(
    visited: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [path.stat().st_size for path in sorted(visited[0].glob("pictures/*.png"))]
    monkeypatch.setattr(patient_report, "PICTURE_BYTES", sum(sizes) + 2000)
    page, content = written(tmp_path, visited)
    assert content["pictures_left_out"] > 0
    assert f"{content['pictures_left_out']} pictures of less doubtful slices are left out" in words_of(page)
    # The most doubtful slice of a segment stays.
    assert page.count("Follow-up slice 5 at") > page.count("Follow-up slice 6 at")


def test_visits_without_days_are_drawn_by_their_number(tmp_path: Path, visited: Sequence[Path]) -> None:
    folder = write_visit_folder(tmp_path, small_result(), day=None)
    page, content = written(tmp_path, [folder, visited[1]])
    assert [each.place for each in trends.trends(content)["GTV"]] == [1.0, 2.0]
    assert "Three plots against visit" in page


def test_more_segments_than_colours_get_plots_of_their_own(
    tmp_path: Path, quick_plots: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from small_visits import segment

    monkeypatch.setattr(trends, "_draw", quick_plots)

    names = [f"organ {number}" for number in range(8)]
    page, content = written(tmp_path, [write_visit_folder(tmp_path, small_result(segments=[segment(name) for name in names]))])
    plots = trends.trend_plots({**content, "prior": {**content["prior"], "segments": []}})
    assert [len(plot.key) for plot in plots] == [6, 2]
    assert all(f" {name}</span>" in page for name in names)


def test_the_prior_volume_comes_from_the_first_visit_that_was_carried_from_it(tmp_path: Path, visited: Sequence[Path]) -> None:
    _, content = written(tmp_path, visited, prior={})
    assert content["prior"]["segments"] == [{"name": "GTV", "volume_ml": 4.0}, {"name": "node", "volume_ml": 4.0}]


def test_a_report_on_no_visit_at_all_is_a_page(tmp_path: Path) -> None:
    page, content = written(tmp_path, [], prior={})
    assert "There is no contour in this report." in words_of(page)
    assert content["visits"] == []


def test_ten_visits_make_a_file_that_can_be_mailed(tmp_path: Path) -> None:
    """With noise in every picture, which no file format makes smaller."""
    from io import BytesIO

    from P2SAMSlicerLib.report.pictures import Picture
    from PIL import Image

    content = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 96, (523, 1224), dtype=np.uint8)).save(content, format="png")
    made = [Picture(f"p{k}", content.getvalue(), "GTV", k, 0.0, "central", 0.5, "c") for k in range(4)]
    folders = [write_visit_folder(tmp_path, small_result(f"visit_{k}"), made, number=k) for k in range(2, 12)]
    html, _ = write_patient_report(tmp_path, folders, prior=PRIOR)
    assert html.stat().st_size < 15_000_000
    assert html.stat().st_size > 10_000_000


def browse(tool: Callable[[str], str], folder: Path, page: Path, *options: str) -> str:
    """Open a page in headless Chromium; what it logged."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "DBUS_SESSION_BUS_ADDRESS")}
    done = subprocess.run(
        [
            *(tool("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"),
            *(
                "--disable-background-networking",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                f"--user-data-dir={folder / 'profile'}",
            ),
            *(*options, page.as_uri()),
        ],
        cwd=folder,
        env={**environment, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


def test_a_browser_shows_the_report_and_prints_it(
    tool: Callable[[str], str], reported: tuple[str, dict[str, Any], Path], tmp_path: Path
) -> None:
    from PIL import Image

    shot, printed = tmp_path / "shot.png", tmp_path / "report.pdf"
    log = browse(tool, tmp_path, reported[2], "--window-size=1100,9000", f"--screenshot={shot}")
    log += browse(tool, tmp_path, reported[2], "--no-pdf-header-footer", f"--print-to-pdf={printed}")
    # What the page itself says or breaks stands in the log as a message of its console.
    assert "CONSOLE" not in log
    assert not re.search("Refused to|ERR_|net_error|Content Security Policy", log)
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert pixels.shape[:2] == (9000, 1100)
    shown = np.flatnonzero((pixels < 250).any(axis=(1, 2)))
    assert shown[-1] > 5000
    assert 0.03 < (pixels < 200).any(axis=-1).mean() < 0.6
    # Every picture is drawn: pixels of the three outlines' colours.
    for color in ("E69F00", "56B4E9", "CC79A7"):
        wanted = [int(color[k : k + 2], 16) for k in (0, 2, 4)]
        assert (np.abs(pixels.astype(int) - wanted).max(axis=-1) < 40).sum() > 300
    pdf = printed.read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page[^s]", pdf))
    assert 8 <= pages <= 16


def test_the_browser_would_have_logged_what_the_policy_refuses(
    tool: Callable[[str], str], reported: tuple[str, dict[str, Any], Path], tmp_path: Path
) -> None:
    """The policy works, and the test above could fail."""
    page = tmp_path / "bad.html"
    bad = '<img src="https://example.invalid/x.png"><script>document.title = "run"</script>'
    page.write_text(reported[0].replace("</main>", f"{bad}</main>"), encoding="utf-8")
    log = browse(tool, tmp_path, page, f"--screenshot={tmp_path / 'shot.png'}")
    assert log.count("Content Security Policy") >= 2


def test_the_folder_of_a_failed_visit_holds_no_contour(tmp_path: Path) -> None:
    page, content = written(tmp_path, [write_failed_visit(tmp_path, 2, None, "<b>why</b>")])
    assert "nothing was carried to it; <b>why</b>" in words_of(page)
    assert content["contours"] == 0


def test_figures_of_several_references_are_shown_with_their_words(tmp_path: Path) -> None:
    agreement = {"GTV": {"references": ["visit_1", "visit_2"], "weights": [0.25, 0.75], "mean_dice": 0.8123, "new": None}}
    folder = write_visit_folder(tmp_path, small_result(), reference_agreement=agreement)
    words = words_of(written(tmp_path, [folder])[0])
    assert "Several references" in words
    assert "mean dice 0.812 mean 3-D Dice of all pairs of contours" in words
    assert "visit_1, visit_2" in words
    assert "0.25, 0.75" in words
