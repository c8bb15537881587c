"""What is minimised, as functions of tensors alone; networks and data stay outside."""
