"""Training the networks of a model from nothing but images and captions."""
