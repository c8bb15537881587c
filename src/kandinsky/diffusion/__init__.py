"""The mathematics of diffusion: process, times, readings, guidance, constraints, samplers, the one loop."""
