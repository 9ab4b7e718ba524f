"""Accuracy of all methods on cases with known truth: ``python Testing/benchmarks/accuracy.py --cases DIR --out DIR [...]``.

The same as ``p2sam benchmark accuracy``, for who looks for the README's measurements here.
"""

from __future__ import annotations

import sys

from P2SAMSlicerLib.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", "accuracy", *sys.argv[1:]]))
