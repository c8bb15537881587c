"""Speed and memory against the peer: the same weights and requests on both sides, in one run."""
