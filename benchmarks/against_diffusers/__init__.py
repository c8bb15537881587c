"""Speed and memory against diffusers: the same weights and requests on both sides, in one run."""
