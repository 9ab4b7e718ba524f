"""Promptable segmentation models behind one protocol."""
