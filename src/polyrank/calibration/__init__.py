"""Monotone maps of a head's logit, fitted after training: what turns scores into probabilities."""
