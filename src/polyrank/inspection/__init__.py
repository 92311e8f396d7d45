"""What a fitted model reads: which features it needs, and how a number moves its predictions."""
