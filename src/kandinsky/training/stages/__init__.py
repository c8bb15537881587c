"""To be moved: encodings and heads."""
