"""The exceptions of polyrank: one base, a handful of children, and the nearest-name hint.

PolyrankError
├── SchemaError     features, tasks and keys that contradict each other
├── ConfigError     a table or an option that cannot be read
├── NotAnsweredError  a name of torch_rechub that classic does not have: ConfigError, ImportError
├── DataError       rows that contradict the schema
├── TrainingError   a run that cannot start or go on
├── BundleError     a saved model that cannot be loaded
├── ExportError     a model that cannot leave torch, or would answer otherwise without it
├── Refused         a request that is not answered (in polyrank.serve.app.limits)
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


class NotAnsweredError(ConfigError, ImportError):
    """A name of `torch_rechub` that the classic door does not have."""


class DataError(PolyrankError, ValueError):
    """Rows that contradict the schema."""


class TrainingError(PolyrankError, RuntimeError):
    """A run that cannot start or go on."""


class BundleError(PolyrankError, RuntimeError):
    """A saved model that cannot be loaded."""


class ExportError(PolyrankError, RuntimeError):
    """A model that cannot be exported, or whose export does not answer as it does."""


class LeakageWarning(UserWarning):
    """A feature states a label, and training goes on: what is learnt will not hold in use."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a clause that names the nearest known name, and all known names when they are few.

    Example:
        >>> did_you_mean("clik", ["click", "buy"])
        "; did you mean 'click'? (known: 'click', 'buy')"
    """
    names = list(dict.fromkeys(known))
    nearest = get_close_matches(name, names, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    if not names:
        return hint + " (none is known)"
    shown = ", ".join(repr(each) for each in names[:20])
    more = f", … {len(names) - 20} more" if len(names) > 20 else ""
    return f"{hint} (known: {shown}{more})"
