"""How sure a logit is, and ranking by more than its mean."""
