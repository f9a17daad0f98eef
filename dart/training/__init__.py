"""Training: what is frozen, what the loss is, and the loop."""
