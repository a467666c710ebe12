"""How a worker process writes its log: readable lines or JSON lines, on standard error."""

from __future__ import annotations

import datetime as dt
import enum
import json
import logging

__all__ = ["JsonFormatter", "LogFormat", "LogLevel", "set_up_logging"]

EXTRA = "vp_"
"""What the names of an event's fields start with in a log record."""


class LogLevel(enum.StrEnum):
    """The least level that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(enum.StrEnum):
    """The form of the lines."""

    TEXT = "text"
    JSON = "json"


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON, with the event's fields beside its text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = {name.removeprefix(EXTRA): value for name, value in vars(record).items() if name.startswith(EXTRA)}
        line |= {name: value for name, value in fields.items() if name not in line and value is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up_logging(level: LogLevel, form: LogFormat) -> None:
    """Write videopoll's log at `level`, and the warnings of all other libraries.

    HTTP libraries log URLs at INFO, and UltraMsg's have the token in them.
    """
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("videopoll").setLevel(level.upper())
