"""What the stages of a run share."""
