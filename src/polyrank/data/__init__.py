"""Log to batches: read · ids · dense · vocab · labels · table · split · statistics · check."""
