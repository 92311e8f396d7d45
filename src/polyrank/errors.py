"""The exceptions of polyrank: one base, a handful of children, and the nearest-name hint.

PolyrankError
├── SchemaError     features, tasks and keys that contradict each other
├── ConfigError     a table or an option that cannot be read
│   └── UnknownImportError  a torch_rechub name that classic lacks; an ImportError too
├── DataError       rows that contradict the schema
├── TrainingError   a run that cannot start or continue
├── BundleError     a saved model that cannot be loaded
├── ExportError     a model that cannot be exported, or whose export gives other numbers
├── Refused         a request that gets an error (in polyrank.serve.app.limits)
└── Undefined       a metric that has no value on these rows (in polyrank.metrics.undefined)

One warning: LeakageWarning, a feature that states a label.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PolyrankError(Exception):
    """What polyrank raises; the message names the culprit, what is known and the fix."""


class SchemaError(PolyrankError, ValueError):
    """Features, tasks and keys that contradict each other."""


class ConfigError(PolyrankError, ValueError):
    """A table or an option that cannot be read."""


class UnknownImportError(ConfigError, ImportError):
    """A name of `torch_rechub` that `polyrank.classic` does not have."""


class DataError(PolyrankError, ValueError):
    """Rows that contradict the schema."""


class TrainingError(PolyrankError, RuntimeError):
    """A run that cannot start or continue."""


class BundleError(PolyrankError, RuntimeError):
    """A saved model that cannot be loaded."""


class ExportError(PolyrankError, RuntimeError):
    """A model that cannot be exported, or whose export gives other numbers."""


class LeakageWarning(UserWarning):
    """A feature states a label, and training continues: the scores will not hold in use."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a clause that names the nearest known name, and all known names when they are few.

    Case does not count, and a part of a name stands for it: `epochs` for `train.epochs`, `like` for
    `like @ all`.

    Examples:
        >>> did_you_mean("Clik", ["click", "buy"])
        "; did you mean 'click'? (known: 'click', 'buy')"
        >>> did_you_mean("buy", ["click @ all", "buy @ all"])
        "; did you mean 'buy @ all'? (known: 'click @ all', 'buy @ all')"
    """
    names = list(dict.fromkeys(known))
    parts = [(part, each) for each in names for part in (each.split(" @ ")[0], each.split(".")[-1])]
    whole = [(each, each) for each in names]
    # The first of equal spellings counts, and a whole name before a part.
    spelled = {part.casefold(): each for part, each in reversed([*whole, *parts])}
    nearest = get_close_matches(name.casefold(), spelled, n=1)
    hint = f"; did you mean {spelled[nearest[0]]!r}?" if nearest else ""
    if not names:
        return hint + " (none is known)"
    shown = ", ".join(repr(each) for each in names[:20])
    more = f", … {len(names) - 20} more" if len(names) > 20 else ""
    return f"{hint} (known: {shown}{more})"
