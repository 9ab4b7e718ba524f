"""3D Slicer without the application, for tests: what a scripted module imports, and nothing that Slicer does not have.

The scene, its nodes and ``slicer.util`` are Slicer's own (package slicer-core). The rest are small stand-ins on PySide6 that
work as the real ones do and refuse every name that the tables of the real application do not list.
"""

from __future__ import annotations
