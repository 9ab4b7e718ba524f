"""A patient's visits: found, carried from one to the other, and written with a report."""
