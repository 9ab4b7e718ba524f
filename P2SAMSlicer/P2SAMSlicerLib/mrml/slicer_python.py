"""Which Python a child process of 3D Slicer is started with."""

from __future__ import annotations

import shutil
import sys


def python_executable() -> str:
    """``PythonSlicer``, which sets up Slicer's libraries first; outside of the application the Python that runs this."""
    return shutil.which("PythonSlicer") or sys.executable
