"""One JSON object a line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

# In ASCII: a path that a client chose may hold what a reader takes for the end of a line, or what a
# terminal obeys.
_ENCODER = json.JSONEncoder(ensure_ascii=True, default=str)


class JsonLines(logging.Formatter):
    """A formatter whose lines are JSON: time, level, logger, message, and `extra={"about": {…}}`.

    Example:
        >>> record = logging.LogRecord("web", logging.INFO, "", 0, "%d rows", (3,), None)
        >>> record.about = {"status": 200}
        >>> JsonLines().format(record)[37:]
        '"level": "info", "logger": "web", "message": "3 rows", "status": 200}'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        when = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "about", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line)


def to_stderr() -> None:
    """Send every logger's lines to standard error as JSON: ours from INFO, others' from WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("polyrank").setLevel(logging.INFO)
