"""Layers: packed embeddings, MLP, experts and gates."""
