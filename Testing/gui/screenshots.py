"""The README's picture of the module: ``python Testing/gui/screenshots.py --out Resources/Screenshots``.

Runs the module in the headless host on its sample visits (a real CT with a simulated second visit) with the real worker, and
draws panel and slice views. The frame of the application around them is not drawn, because there is no application.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: So long may the run take, in seconds.
RUN_SECONDS = 900.0
VIEW = 356
PANEL_WIDTH = 560
#: What each slice view shows of the patient, in mm.
FIELD_MM = 150.0


def main(argv: Sequence[str] | None = None) -> int:
    """Make the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for review.png")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    sys.path[:0] = [str(HERE), str(ROOT / "P2SAMSlicer")]
    from host.facts import reference_folder
    from host.session import Host

    facts = reference_folder()
    if facts is None:
        print("no tables of Slicer's names: the host cannot run", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder), facts)
        try:
            make_picture(host, arguments.out)
        finally:
            host.close()
    return 0


def make_picture(host: Any, out: Path) -> None:
    """Carry the sample's contour, edit a prompt, and draw."""
    from P2SAMSlicerLib.mrml.sample_visits import add_lung_visits

    widget = host.load_module(ROOT / "P2SAMSlicer" / "P2SAMSlicer.py")
    add_lung_visits()
    widget.enter()
    host.process_events()
    host.click(widget.ui.applyButton)
    host.wait_until(lambda: not widget.logic.running, RUN_SECONDS)
    if widget.logic.lastRun.error:
        raise RuntimeError(widget.logic.lastRun.error)
    widget.ui.reviewerEdit.text = "A. B."
    host.click(widget.ui.editPromptsButton)
    look_at_largest(widget)
    add_points()
    host.click(widget.ui.updateButton)
    host.wait_until(lambda: not widget.logic.updating, RUN_SECONDS)
    host.process_events()
    updates = widget.logic.updates
    print(f"edited prompts: {updates.seconds:.2f} s, {updates.encoded} slices encoded")
    widget.ui.slicesTable.scrollToTop()  # the most doubtful slices
    draw(host, widget, out)


def draw(host: Any, widget: Any, out: Path) -> None:
    """The panel as it is now, and the slice views beside it, as ``review.png``."""
    from host.slice_views import panel_picture

    with tempfile.TemporaryDirectory() as folder:
        panel_picture(host.panel(widget), Path(folder) / "panel.png", PANEL_WIDTH)
        views = slice_views(Path(folder))
        join(Path(folder) / "panel.png", views, out / "review.png")


def look_at_largest(widget: Any) -> None:
    """Click the slice on which the contour is largest."""
    import slicer

    (node,) = [each for each in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if each.GetName().endswith("propagated")]
    followup = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(0), followup)
    largest = str(int(mask.sum(axis=(1, 2)).argmax()))
    table = widget.ui.slicesTable
    (row,) = [number for number in range(table.rowCount) if table.item(number, 0).text() == largest]
    table.cellClicked(row, 0)


def add_points() -> None:
    """A point in the lesion and one outside of it, as a person places them, on the slice that is shown."""
    import slicer
    from P2SAMSlicerLib.mrml.prompt_nodes import NEGATIVE_ROLE, POSITIVE_ROLE

    (node,) = [each for each in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if each.GetName().endswith("propagated")]
    place = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceNode().GetSliceToRAS()
    right, anterior, superior = (place.GetElement(row, 3) for row in range(3))
    node.GetNodeReference(POSITIVE_ROLE).AddControlPoint(right - 8.0, anterior - 6.0, superior)
    node.GetNodeReference(NEGATIVE_ROLE).AddControlPoint(right + 22.0, anterior + 14.0, superior)


def slice_views(folder: Path) -> list[Path]:
    """The three slice views, close to the contour."""
    import slicer
    from host.slice_views import slice_picture

    files = []
    for name in ("Red", "Green", "Yellow"):
        logic = slicer.app.layoutManager().sliceWidget(name).sliceLogic()
        node = logic.GetSliceNode()
        logic.SnapSliceOffsetToIJK()
        node.SetFieldOfView(FIELD_MM, FIELD_MM, node.GetFieldOfView()[2])
        files.append(folder / f"{name}.png")
        slice_picture(name, files[-1], (VIEW, VIEW))
    return files


def join(panel: Path, views: Sequence[Path], out: Path) -> None:
    """The panel on the left, the views beside it."""
    from PIL import Image

    left = Image.open(panel).convert("RGB")
    right = [Image.open(view).convert("RGB") for view in views]
    height = max(left.height, sum(view.height for view in right) + 4 * (len(right) - 1))
    whole = Image.new("RGB", (left.width + 4 + max(view.width for view in right), height), (60, 60, 60))
    whole.paste(left, (0, 0))
    top = 0
    for view in right:
        whole.paste(view, (left.width + 4, top))
        top += view.height + 4
    whole.save(out, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
