"""Measuring a checkpoint: features of images, KID and FID, retrieval, reconstruction."""
