"""Between the scene of 3D Slicer (MRML) and the library's own types. Needs ``slicer`` and ``vtk``; nothing else here does."""
