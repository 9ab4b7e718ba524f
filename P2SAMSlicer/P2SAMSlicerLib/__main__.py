"""``python -m P2SAMSlicerLib`` is the same as ``p2sam``."""

from __future__ import annotations

import sys

from P2SAMSlicerLib.cli import main

if __name__ == "__main__":
    sys.exit(main())
