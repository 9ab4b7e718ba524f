"""What README.md and Testing/ACCEPTANCE.md tell a person to click and to open is there: the panel's texts, files, headings."""

from __future__ import annotations

import argparse
import ast
import re
from functools import cache
from pathlib import Path

import pytest
from P2SAMSlicerLib.cli.arguments import build_parser

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "P2SAMSlicer"
#: Texts of Slicer itself, of its extensions and menus.
SLICERS_OWN = frozenset(
    (
        *("Edit", "Application Settings", "Modules", "Additional module paths", "Help", "Report a Bug", "OK"),
        *("Sample Data", "PyTorch", "Data", "Data Probe", "Segmentations", "Transforms", "Reload and Test"),
        *("Four-Up", "Red slice only", "Conventional widescreen", "Three over three"),
        *("In progress", "Flagged", "Completed"),
    )
)
#: Texts that the panel puts together, and names of the two guides.
PUT_TOGETHER = frozenset(
    (
        *("Segment / Carried", "tumour, with the model", "edited", "changed since the decision, edited"),
        *("Lung follow-up CT (simulated) propagated", "tumour registered prior", "SAM ViT-B"),
        *("Other data", "Tutorial: many visits from the Python console"),
    )
)


@cache
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def tutorials() -> str:
    """The part of the README that is about the panel."""
    return readme().partition("\n## In 3D Slicer")[2].partition("\n## ")[0]


def acceptance() -> str:
    return (ROOT / "Testing" / "ACCEPTANCE.md").read_text(encoding="utf-8")


@cache
def texts_of_the_module() -> frozenset[str]:
    """All that the panel may show: the texts in its .ui file, and every constant of the module's code."""
    found = set(re.findall(r"<string>([^<]*)</string>", (MODULE / "Resources" / "UI" / "P2SAMSlicer.ui").read_text("utf-8")))
    for path in MODULE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return frozenset(text.rstrip(":.") for text in found)


def labels_in(text: str) -> set[str]:
    """What stands in italics, as in ``*Advanced > Clear*``, label by label; captions of pictures, which have code, left out."""
    italics = (" ".join(each.split()) for each in re.findall(r"(?<![*\w])\*([^*]+?)\*(?![*\w])", text))
    return {label.rstrip(".") for each in italics if "`" not in each for label in each.split(" > ")}


def unknown_labels(text: str) -> set[str]:
    return labels_in(text) - texts_of_the_module() - SLICERS_OWN - PUT_TOGETHER


def heading_anchors(text: str) -> set[str]:
    """The addresses of a text's headings within it, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("guide", [tutorials, acceptance])
def test_a_guide_names_the_panels_buttons_and_sections_as_the_panel_does(guide: object) -> None:
    text = guide() if callable(guide) else ""
    assert {"Propagate", "Edit prompts", "Accept", "Open in Segment Editor"} <= labels_in(text)
    assert not unknown_labels(text)


def test_a_button_that_the_panel_does_not_have_is_noticed() -> None:
    assert unknown_labels("Click *Advanced > Polish*, then *Propagate*.") == {"Polish"}


def test_every_link_and_picture_of_the_readme_leads_somewhere() -> None:
    anchors = heading_anchors(readme())
    targets = re.findall(r"\]\(([^)]+)\)", readme())
    assert len(targets) > 5
    lost = {
        t for t in targets if not (t[1:] in anchors if t.startswith("#") else t.startswith("https://") or (ROOT / t).is_file())
    }
    assert not lost


def test_the_readme_says_at_the_top_that_the_module_was_never_run_in_the_application() -> None:
    top = " ".join(readme().partition("\n## ")[0].split())
    assert "never in the application itself" in top
    assert "Testing/ACCEPTANCE.md" in top
    assert "Research use only" in top


def test_the_readme_shows_the_panel_and_a_result_on_a_real_ct() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", readme())
    assert {"Resources/demo-overlay.png", "Resources/Screenshots/review.png"} <= set(pictures)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """All options of a command and of the commands below it."""
    found: set[str] = set()
    for action in parser._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found.update(*(options_of(each) for each in action.choices.values()))
    return found


def test_every_option_that_the_readme_names_is_there() -> None:
    files = [ROOT / "dev.py", *(ROOT / "Testing" / "benchmarks").glob("*.py")]
    scripts = "".join(path.read_text("utf-8") for path in files)
    others = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", scripts))
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", readme()))
    assert {"--prior-ct", "--long", "--size"} <= named
    # An option of Dask's own, for workers with a GPU.
    assert not named - options_of(build_parser()) - others - {"--resources"}
