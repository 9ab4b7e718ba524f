"""The frame of a report: whatever it is given is text, and nothing in it needs anything outside of the file."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.report import page as frame
from P2SAMSlicerLib.report.page import NONE, Markup

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"
HOSTILE = '<script>alert("1")</script>\' onload=x &amp; </style>\u202e\x00\x1b[31m\ud800'


class Tags(HTMLParser):
    """Every tag, attribute and text of a page; complains about tags that are not closed in order."""

    VOID = ("meta", "img", "br", "hr")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def whole_page(word: str) -> str:
    """A page in which a word stands in every place that a caller can fill."""
    return frame.page(
        word,
        frame.heading(3, word, word),
        frame.paragraph(word, kind=word),
        frame.bullets([word, None]),
        frame.badge(word, "bad"),
        frame.notice(word, title=word),
        frame.section(word, word, anchor=word, new_page=True),
        frame.table(word, [word, "b"], [[word, word]], numeric=[1]),
        frame.facts(word, {word: word}),
        frame.picture(PNG, word, word, kind="wide"),
        frame.signature_lines([word]),
        running=word,
        language="en",
    )


@given(st.text(max_size=60) | st.sampled_from([HOSTILE, "</style><script>", "]]>", "--><!--", "a\\b'c\"d", "@import url(//x)"]))
def test_a_word_from_outside_adds_no_tag_and_no_attribute(word: str) -> None:
    shape = [(name, sorted(attributes)) for name, attributes in Tags(whole_page("plain")).tags]
    found = Tags(whole_page(word))
    assert [(name, sorted(attributes)) for name, attributes in found.tags] == shape
    style = re.findall(r"<style>(.*?)</style>", whole_page(word), re.DOTALL)
    assert len(style) == 1
    plain = re.findall(r"<style>(.*?)</style>", whole_page("plain"), re.DOTALL)[0]
    # Braces and semicolons end what a style sheet says; the word brings none.
    for sign in "{};@<":
        assert style[0].count(sign) == plain.count(sign)


@given(st.text(max_size=60))
def test_text_comes_out_as_one_visible_line(word: str) -> None:
    shown = frame.clean(word)
    assert "\n" not in shown
    assert all(letter.isprintable() for letter in shown)
    shown.encode("utf-8")
    assert html.unescape(frame.text(word)) == shown


def test_hidden_characters_are_told_by_their_number() -> None:
    assert frame.clean("GTV\u202eoo\u200b") == "GTV\\u202eoo\\u200b"
    assert frame.clean("\ud800") == "\\ud800"
    assert frame.clean("a\tb\nc") == "a b c"


def test_a_very_long_text_is_cut() -> None:
    assert len(frame.clean("x" * 10**6)) == frame.LONGEST_TEXT
    assert frame.clean("x" * 10**6, 5) == "xxxx…"


def test_the_page_may_load_nothing_and_run_nothing() -> None:
    text = whole_page("word")
    tags = Tags(text)
    policies = [each["content"] for each in tags.named("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    rules = dict(rule.strip().split(" ", 1) for rule in str(policies[0]).split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert not {"script", "link", "iframe", "object", "form", "base", "a"} & {name for name, _ in tags.tags}
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", text))


def test_pictures_lie_in_the_page_and_have_a_text_in_their_stead() -> None:
    (image,) = Tags(frame.picture(PNG, "what is seen", "caption")).named("img")
    assert str(image["src"]).startswith("data:image/png;base64,")
    assert image["alt"] == "what is seen"


def test_a_picture_that_is_no_png_is_refused() -> None:
    with pytest.raises(InputError, match="not a PNG"):
        frame.picture(b"<svg onload=alert(1)>", "x")


def test_tables_have_a_caption_and_headers_for_rows_and_columns() -> None:
    tags = Tags(frame.table("what", ["a", "b"], [["1", "2"], ["3", None]]))
    assert len(tags.named("caption")) == 1
    assert [each.get("scope") for each in tags.named("th")] == ["col", "col", "row", "row"]
    assert tags.texts == ["what", "a", "b", "1", "2", "3", NONE]


def test_a_row_of_another_length_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="3 cells in a table of 2"):
        frame.table("what", ["a", "b"], [["1", "2", "3"]])


def test_markup_is_not_escaped_again() -> None:
    assert frame.paragraph(frame.badge("a < b")) == '<p><span class="badge plain">a &lt; b</span></p>'
    assert isinstance(frame.text(Markup("<b>")), Markup)


@pytest.mark.parametrize(
    ("value", "options", "shown"),
    [
        (None, {}, NONE),
        (float("nan"), {}, NONE),
        (float("inf"), {}, NONE),
        (True, {}, NONE),
        (-0.04, {}, "0.0"),
        (1.25, {"digits": 2, "sign": True}, "+1.25"),
        (0.0, {"sign": True}, "0.0"),
        (3, {"unit": "ml"}, "3.0 ml"),
    ],
)
def test_figures_are_rounded_and_missing_ones_are_a_dash(value: float | None, options: dict[str, object], shown: str) -> None:
    assert frame.figure_text(value, **options) == shown  # type: ignore[arg-type]


def test_a_page_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    frame.write_page(path, frame.page("first"))
    before = path.read_bytes()
    with pytest.raises(OutputError):
        frame.write_page(tmp_path / "absent" / "page.html", frame.page("second"))
    with pytest.raises(UnicodeEncodeError):
        frame.write_page(path, "\ud800")
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
