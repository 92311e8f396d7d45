"""Print pip constraints to the lowest versions that pyproject.toml allows.

Of what an installation of polyrank brings, with the extras that the tests use, and not of the tools
that test it.
"""

import re
import tomllib
from pathlib import Path

EXTRAS = ("report", "serve", "track", "trees", "tune")


def constraints(project: dict) -> list[str]:
    """Return `name==version` of each requirement; one without a lower bound is refused."""
    extras = project["optional-dependencies"]
    found = []
    for requirement in [*project["dependencies"], *(r for name in EXTRAS for r in extras[name])]:
        bound = re.match(r"([\w.-]+)>=([\w.]+)", requirement)
        if bound is None:
            raise SystemExit(f"{requirement!r} must begin with a lower bound, as in name>=1.2")
        found.append(f"{bound[1]}=={bound[2]}")
    return found


if __name__ == "__main__":
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    print("\n".join(constraints(tomllib.loads(text)["project"])))  # noqa: T201
