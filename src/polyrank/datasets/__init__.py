"""Data sets: one function a file, each giving (train, valid, test, Schema)."""
