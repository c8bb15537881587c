"""Runs the comparison: `python -m benchmarks.against_diffusers [WORKLOAD]...`."""

from benchmarks.against_diffusers.cli import main

main()
