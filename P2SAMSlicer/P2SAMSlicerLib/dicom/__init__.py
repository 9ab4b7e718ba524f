"""DICOM in and out: folders of studies, CT series, structure sets (RTSTRUCT) and segmentations (SEG)."""
