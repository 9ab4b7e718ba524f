"""The report to sign: one self-contained HTML file and its figures as JSON."""
