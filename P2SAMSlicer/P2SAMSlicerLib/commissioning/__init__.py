"""Whether the tool is good enough for a clinic, on the clinic's own cases and by its own tolerances."""
