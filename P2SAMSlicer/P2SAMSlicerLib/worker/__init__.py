"""The engine in a process of its own: 3D Slicer, or whoever calls, stays responsive, and alive when the engine is not."""
