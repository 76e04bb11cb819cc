"""What papers claim, measured: one folder a paper, `python -m benchmarks.papers`."""
