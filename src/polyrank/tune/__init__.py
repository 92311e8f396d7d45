"""The search for better settings; only `polyrank.tune.study` knows Optuna."""
