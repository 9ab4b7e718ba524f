"""The frame of a report: one HTML file that needs nothing else, and that can be read, printed and signed.

There is no script, no link to anything outside, and a content security policy that forbids both; pictures lie in the file. Text
from anywhere else (names of segments, reasons, a reviewer's name) becomes text and never markup: every function takes plain
strings and escapes them, unless they are :class:`Markup`, which only the functions of this module make.
"""

from __future__ import annotations

import base64
import html
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from P2SAMSlicerLib.atomic_file import atomic_write
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.report.style import STYLE

#: The browser may load nothing, run nothing and send nothing; pictures and style stand in the file itself.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"

#: What a reader finds in place of a figure that there is none of.
NONE = "–"
#: A text is cut here: no name and no reason needs more, and a page has to stay readable.
LONGEST_TEXT = 1000
#: Kinds of characters that are shown by number: control, format (such as those that turn the direction of writing), surrogates,
#: private use, unassigned, and separators of lines and paragraphs.
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")

Tone = Literal["good", "bad", "warn", "plain"]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Markup(str):
    """HTML that may stand in a page as it is."""

    __slots__ = ()


Content = str | None


def clean(value: object, longest: int = LONGEST_TEXT) -> str:
    """A value as one line of visible characters; those that cannot be seen are told by number, as ``\\u202e``.

    :param longest: characters after which it is cut, with an ellipsis.
    """
    shown = []
    for letter in str(value)[: longest + 1]:
        if letter in "\t\n\r\f\v":
            shown.append(" ")
        elif unicodedata.category(letter) in _HIDDEN:
            shown.append(f"\\u{ord(letter):04x}")
        else:
            shown.append(letter)
    line = " ".join("".join(shown).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def text(value: Content) -> Markup:
    """Any text, escaped; :class:`Markup` as it is; :data:`NONE` for None."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(NONE if value is None else clean(value), quote=True))


def join(parts: Iterable[Content], between: str = "") -> Markup:
    """Pieces one after the other."""
    return Markup(html.escape(between).join(text(part) for part in parts))


def element(tag: str, *content: Content, **attributes: str | None) -> Markup:
    """An element; attributes that are None are left out, and a trailing underscore of their names (``class_``) is dropped."""
    words = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(clean(value), quote=True)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{words}>{join(content)}</{tag}>")


def heading(level: int, title: Content, anchor: str | None = None) -> Markup:
    """A heading of level 1 to 6; the page itself has level 1."""
    return element(f"h{level}", title, id=anchor)


def paragraph(*content: Content, kind: str | None = None) -> Markup:
    """A paragraph; ``kind`` is one of the style's classes, such as ``note``."""
    return element("p", *content, class_=kind)


def bullets(items: Sequence[Content]) -> Markup:
    """A list; nothing for an empty one."""
    return element("ul", *(element("li", item) for item in items)) if items else Markup("")


def badge(word: Content, tone: Tone = "plain") -> Markup:
    """A word in a frame, such as UNREVIEWED. It says the same without colour."""
    return element("span", word, class_=f"badge {tone}")


def notice(*content: Content, tone: Tone = "warn", title: Content = None) -> Markup:
    """A framed paragraph that nobody should overlook."""
    head = Markup("") if title is None else element("strong", title, class_="notice-title")
    return element("div", head, *content, class_=f"notice {tone}", role="note")


def section(title: Content, *content: Content, level: int = 2, anchor: str | None = None, new_page: bool = False) -> Markup:
    """A heading with what belongs to it.

    :param new_page: begin a page with it when printed.
    """
    return element("section", heading(level, title, anchor), *content, class_="new-page" if new_page else None)


def table(
    caption: Content,
    columns: Sequence[Content],
    rows: Sequence[Sequence[Content]],
    *,
    numeric: Iterable[int] = (),
    wide: Iterable[int] = (),
) -> Markup:
    """A table with a caption; the first cell of each row is its header.

    :param rows: as many cells each as there are columns.
    :param numeric: numbers of columns that hold figures, which are set to the right.
    :param wide: numbers of columns that hold sentences.
    :raises ValueError: a row has another number of cells: a fault of the caller.
    """
    kinds = {**dict.fromkeys(numeric, "number"), **dict.fromkeys(wide, "sentence")}
    head = element("tr", *(element("th", each, scope="col", class_=kinds.get(k)) for k, each in enumerate(columns)))
    body = []
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(columns)} columns")
        cells = [element("th", row[0], scope="row", class_=kinds.get(0))] if row else []
        cells += [element("td", cell, class_=kinds.get(k)) for k, cell in enumerate(row[1:], 1)]
        body.append(element("tr", *cells))
    return element(
        "div",
        element("table", element("caption", caption), element("thead", head), element("tbody", *body)),
        class_="table",
    )


def facts(caption: Content, pairs: Mapping[str, Content] | Sequence[tuple[Content, Content]]) -> Markup:
    """A table of two columns, name and value."""
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    rows = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in items]
    return element("div", element("table", element("caption", caption), element("tbody", *rows)), class_="table facts")


def picture(png: bytes, alternative: str, caption: Content = None, *, kind: str | None = None) -> Markup:
    """A PNG that lies in the page.

    :param alternative: says in words what is seen, for those who cannot see it.
    :param kind: ``wide`` fills the page's width; ``slices`` does so on a screen, and leaves room for three on a sheet of paper.
    :raises InputError: it is no PNG.
    """
    if not png.startswith(PNG_SIGNATURE):
        raise InputError("a picture of the report is not a PNG; make the results again")
    source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    # Not by element(): it would cut so long an attribute.
    image = Markup(f'<img src="{source}" alt="{html.escape(clean(alternative), quote=True)}">')
    below = Markup("") if caption is None else element("figcaption", caption)
    return element("figure", image, below, class_=kind)


def signature_lines(roles: Sequence[Content] = ("Reviewed by", "Medical physicist"), case: Content = None) -> Markup:
    """Lines to sign: name, date and signature for each role.

    :param case: what is to be written by hand above them, so that a page without a name can be filed; None for nothing.
    """
    cells = ("Name", "Date", "Signature")
    rows = [
        element(
            "tr", element("th", role, scope="row"), *(element("td", element("span", cell, class_="hint")) for cell in cells)
        )
        for role in roles
    ]
    if case is not None:
        rows.insert(0, element("tr", element("th", case, scope="row"), element("td", colspan="3")))
    return element("table", element("caption", "To be signed by hand"), element("tbody", *rows), class_="sign")


def figure_text(value: float | None, digits: int = 1, unit: str = "", *, sign: bool = False) -> str:
    """A figure as the tables show it; :data:`NONE` where there is none or it is not finite.

    :param sign: with a plus before what is above zero.
    """
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
        return NONE
    # Rounded first and plus zero, so that nothing is -0.0.
    rounded = round(float(value), digits) + 0.0
    number = f"{rounded:+.{digits}f}" if sign and rounded else f"{rounded:.{digits}f}"
    return f"{number} {unit}" if unit and unit != "%" else f"{number}{unit and ' '}{unit}"


def in_words(definition: str) -> str:
    """A definition of a JSON file's figure as it reads beside a table, where there is no null."""
    return definition.replace("null", "none")


def page(title: str, *content: Content, running: str = "For research use only", language: str = "en") -> str:
    """A whole page.

    :param title: also its first heading.
    :param running: stands on top of every printed page.
    """
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY, quote=True)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{text(title)}</title>"
        f"<style>{STYLE.replace('@RUNNING@', _css_string(running))}</style>"
    )
    body = element("main", heading(1, title), *content)
    return f'<!DOCTYPE html>\n<html lang="{html.escape(language, quote=True)}"><head>{head}</head><body>{body}</body></html>\n'


def write_page(path: Path | str, content: str) -> None:
    """Write a page; it appears whole or not at all.

    :raises OutputError: no space, no permission.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="\n")


def _css_string(value: str) -> str:
    """A text between the quotes of a style sheet: whatever is no letter or digit by its number."""
    return "".join(letter if letter.isalnum() or letter == " " else f"\\{ord(letter):x} " for letter in clean(value))


def plain_or(value: Any, otherwise: str = NONE) -> str:
    """A value from a file as text: lists by commas, yes and no for truth values, ``otherwise`` for nothing."""
    if value is None or value == "" or value == [] or value == {}:
        return otherwise
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain_or(each) for each in value)
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {plain_or(each)}" for key, each in value.items())
    return str(value)
