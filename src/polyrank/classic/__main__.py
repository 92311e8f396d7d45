"""`python -m polyrank.classic script.py [arguments]` runs a Torch-RecHub script unchanged."""

from __future__ import annotations

import logging
import sys

from polyrank.classic.script import run
from polyrank.errors import PolyrankError

USAGE = "usage: python -m polyrank.classic script.py [arguments]"


def main(arguments: list[str]) -> int:
    """Run a script; exit code 1 with a message for an error, 2 for wrong usage."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stderr.write(f"{USAGE}\n")
        return 0 if arguments else 2
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("polyrank").setLevel(logging.INFO)
    try:
        run(arguments[0], arguments[1:])
    except PolyrankError as error:
        sys.stderr.write(f"polyrank: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
