"""The libraries of an extra, looked for before anything is done."""

from __future__ import annotations

from importlib.util import find_spec

from polyrank.errors import PolyrankError


def require(*modules: str, what: str, extra: str = "serve") -> None:
    """Refuse to go on without a library of an extra; `what` begins the message."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise PolyrankError(f"{what} needs {', '.join(missing)}: pip install 'polyrank[{extra}]'")
