"""A proposed experiment for a log without a schema, each line of it with its reason."""
