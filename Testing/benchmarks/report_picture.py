"""The README's picture of a report: ``python Testing/benchmarks/report_picture.py --out Resources/Screenshots``.

Two follow-ups are simulated from the demo's lung CT (or from a CT and contour of your own), a patient's folder is made of them,
``p2sam patient`` is run on it, and the head of the report is drawn by Chromium. The report itself is left beside the picture
with ``--keep``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "P2SAMSlicer"))

from P2SAMSlicerLib import demo_data  # noqa: E402
from P2SAMSlicerLib.options import PropagationOptions  # noqa: E402
from P2SAMSlicerLib.patient.plan import PatientSettings  # noqa: E402
from P2SAMSlicerLib.patient.run import run_patient  # noqa: E402
from P2SAMSlicerLib.progress import terminal_progress  # noqa: E402
from P2SAMSlicerLib.segmentation_file import read_segmentation, write_segmentation  # noqa: E402
from P2SAMSlicerLib.simulation.visit import Change, SimulationOptions, simulate_followup  # noqa: E402
from P2SAMSlicerLib.volume import Segment, Segmentation  # noqa: E402
from P2SAMSlicerLib.volume_file import read_volume, write_volume  # noqa: E402

#: Date and change of each simulated follow-up; each is made from the prior.
FOLLOWUPS: tuple[tuple[str, Change, int], ...] = (("2024-02-12", "shrink", 3), ("2024-03-25", "partial", 4))
PRIOR_DATE = "2024-01-15"
PICTURE_NAME = "report.png"
WIDTH, HEIGHT = 1100, 2400


def main(argv: Sequence[str] | None = None) -> int:
    """Make the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for report.png")
    parser.add_argument("--ct", type=Path, help="a CT of your own (.nii.gz) in place of the demo's")
    parser.add_argument("--contour", type=Path, help="its contour: .seg.nrrd or label map")
    parser.add_argument("--keep", action="store_true", help="leave report.html and report.json beside the picture")
    parser.add_argument("--rigid", action="store_true", help="register rigidly, with one part: to try the script")
    arguments = parser.parse_args(argv)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("chromium is needed to draw the report", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    options = PropagationOptions(registration="rigid", max_parts=1) if arguments.rigid else PropagationOptions()
    with tempfile.TemporaryDirectory() as name, terminal_progress() as progress:
        folder = Path(name)
        ct, contour = (arguments.ct, arguments.contour) if arguments.ct else demo_data.lung_ct(progress)
        write_patient(folder / "patient", ct, contour)
        result = run_patient(folder / "patient", PatientSettings(options=options), folder / "out", progress)
        for visit in result.failures:
            print(f"{visit.label}: {visit.reason}", file=sys.stderr)
        draw(browser, result.report[0], folder, arguments.out / PICTURE_NAME)
        if arguments.keep:
            for file in result.report:
                shutil.copyfile(file, arguments.out / file.name)
    return 1 if result.failures else 0


def write_patient(folder: Path, ct: Path, contour: Path) -> None:
    """A folder of visits, as a clinic may have it: one sub-folder a date, the first with a contour."""
    prior = read_volume(ct)
    mask = read_segmentation(contour).segments[0].mask
    first = folder / PRIOR_DATE
    first.mkdir(parents=True)
    write_volume(prior, first / "ct.nrrd")
    write_segmentation(Segmentation(prior.grid, (Segment("GTV", mask, (0.9, 0.6, 0.0)),)), first / "contours.seg.nrrd")
    for date, change, seed in FOLLOWUPS:
        visit = simulate_followup(prior, mask, SimulationOptions(change=change, seed=seed))
        (folder / date).mkdir()
        write_volume(replace(visit.followup, name="ct"), folder / date / "ct.nrrd")


def draw(browser: str, page: Path, folder: Path, path: Path) -> None:
    """The head of the page: summary, trends, and the first visit's pictures."""
    from PIL import Image

    shot = folder / "shot.png"
    words = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
    ]
    words += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}", page.as_uri()]
    subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
    with Image.open(shot) as image:
        image.convert("RGB").save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
