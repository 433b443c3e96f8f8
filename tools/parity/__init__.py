"""Our logits beside those of independent implementations, on tiny random checkpoints of every family."""
