"""``p2sam benchmark speed``: this product against what it is built on, on one machine, side by side."""
