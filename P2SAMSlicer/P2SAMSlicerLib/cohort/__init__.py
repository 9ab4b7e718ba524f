"""Many patients at once, on Dask; an optional part that is never installed into Slicer."""
