"""P2SAMSlicerLib: carries a tumour contour from a prior CT to a follow-up CT with P2SAM (Zhao & Shen, TMLR 2025).

The package imports without Slicer, Qt or torch; heavy packages are imported by the functions that need them.
"""

__version__ = "0.1.0"
