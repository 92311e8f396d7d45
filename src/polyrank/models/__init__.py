"""The network, and one way of sharing parameters a file."""
