"""Measuring a checkpoint: features of pictures, KID and FID, retrieval, reconstruction, and the model card's
numbers.
"""
