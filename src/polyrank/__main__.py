"""`python -m polyrank` is the command `polyrank`."""

from polyrank.cli import main

main()
