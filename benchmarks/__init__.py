"""Measurements; run from the checkout as modules, such as `python -m benchmarks.tiling`."""
