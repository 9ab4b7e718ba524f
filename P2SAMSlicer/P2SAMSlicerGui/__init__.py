"""The panel of the Slicer module, one file a part. Needs Qt and the application; nothing in ``P2SAMSlicerLib`` imports it."""
