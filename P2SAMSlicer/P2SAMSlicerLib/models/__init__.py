"""Promptable segmentation models behind one protocol. Importing this package does not import torch."""

from __future__ import annotations

from P2SAMSlicerLib.models.loading import DEVICES, check_model, load_model

__all__ = ["DEVICES", "check_model", "load_model"]
