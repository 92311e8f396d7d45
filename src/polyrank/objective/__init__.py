"""The loss: kinds of label, log-probabilities of paths, and one named loss a term."""
