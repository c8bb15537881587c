"""What is minimised, as functions of tensors, without networks and data."""
