"""The command line: one file a verb."""

from polyrank.cli.app import main

__all__ = ["main"]
