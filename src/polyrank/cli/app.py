"""The command and its exit codes.

0 done, 1 refused or failed, 2 wrong usage, 3 a bound of `monitor` is crossed, 130 interrupted.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError, UnknownOptionError

from polyrank import __version__
from polyrank.errors import LeakageWarning, PolyrankError
from polyrank.meter import bars

logger = logging.getLogger(__name__)

VERBS = {
    "demo": "The whole story end to end: a generated funnel, or real census data.",
    "data": "List, fetch (get) or generate (make) a data set.",
    "init": "Propose an experiment for a log, every line with its reason, and audit it.",
    "check": "Audit the log of an experiment before training on it.",
    "explain": "Show the plan: objective, rows and positives per term, parameters, memory.",
    "train": "Train an experiment and write its run folder.",
    "tune": "Search better settings on validation rows; score the winner once on test rows.",
    "replay": "Test, then train, day by day: from scratch and warm start side by side.",
    "evaluate": "Score labelled rows: the scorecard.",
    "predict": "Score rows into a file.",
    "export": "Write ONNX files that give the model's numbers, checked on real rows.",
    "serve": "Serve over HTTP: rows in, named probabilities and their ranking out.",
    "report": "Write one HTML page: scores, curves, calibration, configuration.",
    "monitor": "Compare rows with those at fit, and with labels once they have come.",
    "compare": "Compare runs on the same test rows: differences with intervals.",
}


def app() -> App:
    """Return the application; a verb's module is imported when the verb runs."""
    command = App(
        name="polyrank",
        help="Multi-task ranking: learn several outcomes of an impression, score, save.",
        version=__version__,
        suppress_keyboard_interrupt=False,
        # A flag has no --no-json, and help shows no default of False.
        default_parameter=Parameter(negative=(), show_default=lambda value: value or None),
    )
    for place, (verb, summary) in enumerate(VERBS.items()):
        command.command(f"polyrank.cli.{verb}:{verb}", name=verb, help=summary, sort_key=place)
    return command


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr
    )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale without "·" is no reason to fail
            stream.reconfigure(errors="replace")
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _warnings_as_lines(), bars():
            result = app()(tokens, exit_on_error=False, result_action="return_value")
        return result if isinstance(result, int) else 0
    except CycloptsError as error:  # the library has printed it
        if isinstance(error, UnknownOptionError) and _has_set(error):
            sys.stderr.write(
                "a key of the experiment's file is changed by --set, such as --set train.epochs=3\n"
            )
        return 2
    except PolyrankError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # a user never sees a traceback
        if os.environ.get("POLYRANK_TRACEBACK"):
            raise
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
        library = missing.partition(".")[0]
        if library not in ("", "polyrank"):
            sys.stderr.write(
                f"error: `polyrank {tokens[0]}` needs {library}, which is not installed here: run "
                "`pip install polyrank`\n"
            )
            return 1
        sys.stderr.write(
            f"internal error: {type(error).__name__}: {error}\n"
            "this is a bug in polyrank; set POLYRANK_TRACEBACK=1 to see where\n"
        )
        return 1


def _has_set(error: UnknownOptionError) -> bool:
    return any("--set" in each.names for each in error.argument_collection)


@contextmanager
def _warnings_as_lines() -> Generator[None]:
    """Log a leakage warning as one line: the place in our code means nothing to a user."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", LeakageWarning)
        show = warnings.showwarning

        def log(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, LeakageWarning):
                logger.warning("%s", message)
            else:
                show(message, category, *where, **more)

        warnings.showwarning = log
        yield


def main() -> None:
    """Run `polyrank`."""
    sys.exit(run())
