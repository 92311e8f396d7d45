"""`python -m polyrank.classic script.py [arguments]` runs a Torch-RecHub script unchanged."""

import sys

from polyrank.classic.script import main

sys.exit(main(sys.argv[1:]))
