"""HTTP: an engine behind `POST /v1/score`, with limits, counts and a log."""
