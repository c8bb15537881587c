"""The one schema of a training run: `run` reads it, `objectives` are its tables of what is minimised."""
