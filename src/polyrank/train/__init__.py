"""Training: the loop, its optimisers, its state, and `fit`."""
