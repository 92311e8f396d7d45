"""From a log to batches: read · ids · dense · vocab · labels · table · split · statistics."""
