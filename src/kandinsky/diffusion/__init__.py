"""The mathematics of diffusion: process, times, parametrization, guidance, samplers, the one loop."""
