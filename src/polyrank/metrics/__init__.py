"""Metrics as pure numpy functions, and the scorecard that names the rows they saw."""
