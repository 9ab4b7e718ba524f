"""The cohort's table of results and its page."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from P2SAMSlicerLib.atomic_file import TEMPORARY_PREFIX
from P2SAMSlicerLib.cohort.cohort_report import write_cohort_report
from P2SAMSlicerLib.cohort.results_table import COLUMNS, ResultRow, visit_rows, write_results
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.result_files import write_json
from P2SAMSlicerLib.result_files import write_results as write_visit_results
from small_visits import segment, segment_result, visit_result, without_contour

ROWS = (
    ResultRow("p0001", "visit_2", 28, "done", "GTV", "found", 0.25, 4.0, 3.0, -25.0, 0.5, -0.25, 0.0, "", 2.0),
    ResultRow("p0001", "visit_2", 28, "done", '=LN,"1"', "flagged", 0.75, 1.0, 2.0, 100.0, 0.0, 0.0, 0.0, "a\u00e9; b", 2.0),
    ResultRow("p0002", "visit_2", None, "failed", reasons="it has <b>no</b> slices"),
    ResultRow("p0003", outcome="failed", reasons="two patients in one folder"),
)


def test_a_finished_visits_rows_say_what_its_summary_says(tmp_path: Path) -> None:
    carried = segment_result(segment("GTV"), reasons=("tissue was lost", "near the limit"), outcome=Outcome.FLAGGED)
    gone = without_contour(segment("LN"), Outcome.NO_LESION, "no lesion")
    write_visit_results(tmp_path, [visit_result(carried, gone, name="visit_2")])
    write_json(tmp_path / "visit.json", {"label": "visit_2", "day": 28, "outcome": "done"})
    first, second = (ResultRow.of("p0001", each) for each in visit_rows(tmp_path))
    assert first == ResultRow(
        *("p0001", "visit_2", 28, "done", "GTV", "flagged", 0.5, 4.0, 3.0, -25.0, 0.5, -0.25, 0.0),
        *("tissue was lost; near the limit", 2.0),
    )
    assert (second.segment, second.segment_outcome, second.reasons) == ("LN", "no lesion found", "no lesion")
    assert second.volume_ml is second.shift_left_mm is None


@pytest.mark.parametrize("name", ["summary.json", "visit.json"])
@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"followups": []}', '{"label": 3}', "\u0000"])
def test_a_damaged_visit_is_told_of_by_its_label(tmp_path: Path, name: str, content: str | None) -> None:
    folder = tmp_path / "visit_2"
    write_visit_results(folder, [visit_result(name="visit_2")])
    write_json(folder / "visit.json", {"label": "visit_2", "day": 28})
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=r"^visit_2: its visit\.json and summary\.json are not what a finished visit has$"):
        visit_rows(folder)


def test_both_tables_hold_the_same_and_define_their_columns(tmp_path: Path) -> None:
    table, columns = write_results(tmp_path, ROWS, 2)
    with table.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    found = pyarrow.parquet.read_table(columns)
    names = [name for name in COLUMNS if name != "key"]
    assert list(lines[0]) == found.column_names == names
    plain = found.to_pylist()
    assert plain[1]["segment"] == '=LN,"1"'
    assert lines[1]["segment"] == '\'=LN,"1"'  # a spreadsheet would take it for a formula
    assert plain[3] == {
        **dict.fromkeys(names),
        "patient": "p0003",
        "outcome": "failed",
        "reasons": ROWS[3].reasons,
        "workers": 2,
    }
    for line, row in zip(lines, plain, strict=True):
        for name in set(names) - {"segment"}:
            assert line[name] == ("" if row[name] is None else str(row[name]))
    assert found.schema.field("volume_ml").metadata == {b"meaning": COLUMNS["volume_ml"].encode()}
    assert str(found.schema.field("day").type) == "int64"
    assert str(found.schema.field("seconds").type) == "double"


def test_the_clinics_own_keys_are_in_the_table_only_where_they_are_asked_for(tmp_path: Path) -> None:
    keys = {"p0001": "MRN1", "p0002": "MRN2", "p0003": "MRN3"}
    table, columns = write_results(tmp_path, ROWS, 1, keys)
    assert [row["key"] for row in pyarrow.parquet.read_table(columns).to_pylist()] == ["MRN1", "MRN1", "MRN2", "MRN3"]
    write_results(tmp_path, ROWS, 1)
    assert "MRN" not in table.read_text()
    assert b"MRN" not in columns.read_bytes()


def test_a_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    table, columns = write_results(tmp_path, (), 1)
    assert len(table.read_text().splitlines()) == 1
    assert pyarrow.parquet.read_table(columns).num_rows == 0


def test_a_table_that_cannot_be_written_leaves_the_last_one_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(tmp_path, ROWS, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_table: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    with pytest.raises(OutputError, match=r"results\.parquet: cannot be written \(no space left"):
        write_results(tmp_path, ROWS, 1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert not list(tmp_path.glob(f"{TEMPORARY_PREFIX}*"))


def test_the_page_puts_the_most_doubtful_first_and_tells_what_failed(tmp_path: Path) -> None:
    (tmp_path / "p0001").mkdir()
    (tmp_path / "p0001" / "report.html").touch()
    text = write_cohort_report(tmp_path, ROWS, {"Workers": "2"}, ["p0001: its report <i>"]).read_text(encoding="utf-8")
    doubtful = text[text.index('id="doubtful"') : text.index('id="run"')]
    assert doubtful.index("LN") < doubtful.index("GTV")
    assert 'href="p0001/report.html"' in doubtful
    failed = text[text.index('id="failed"') : text.index('id="doubtful"')]
    assert "it has &lt;b&gt;no&lt;/b&gt; slices" in failed
    assert "two patients in one folder" in failed
    assert "its report &lt;i&gt;" in failed
    assert "href" not in failed  # p0002 and p0003 have no report
    for words in ("UNREVIEWED", "research use only", "New lesions are not sought", *COLUMNS, "P2SAMSlicer", "distributed"):
        assert words in text
    assert "<script" not in text
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")


def test_a_long_list_is_cut_and_says_so(tmp_path: Path) -> None:
    rows = [ResultRow(f"p{n:04d}", "visit_2", 1, "done", "GTV", "found", n / 200) for n in range(1, 201)]
    text = write_cohort_report(tmp_path, rows, {}).read_text(encoding="utf-8")
    assert "100 of 200, the others are in results.csv" in text
    assert "p0200" in text
    assert "p0100" not in text
    assert "Nothing failed." in text
    empty = write_cohort_report(tmp_path, (), {}).read_text(encoding="utf-8")
    assert "Nothing was carried." in empty
    assert "There is no contour." in empty
