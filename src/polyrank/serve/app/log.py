"""The log of a server: one JSON object per line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

# In ASCII: a path that a client chose may hold a line separator or a terminal's control sequence.
_ENCODER = json.JSONEncoder(ensure_ascii=True, default=str)


class JsonLines(logging.Formatter):
    """A formatter whose lines are JSON: time, level, logger, message, `extra={"fields": {…}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        when = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line)


def log_to_stderr() -> None:
    """Log to standard error as JSON: polyrank's loggers from INFO, all others from WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("polyrank").setLevel(logging.INFO)
