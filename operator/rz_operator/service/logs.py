"""A log line says the same in both formats: text for people, one JSON object for a log store. ``main`` sets it up."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import TextIO

NOISY = ("kopf", "httpx", "aiohttp.access")
"""Loggers of libraries that tell of every request."""


class JsonFormatter(logging.Formatter):
    """``{"time", "level", "logger", "message"}``, and ``exception`` with its stack where there was one."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        entry = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def set_up(level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Log to ``stream`` (standard error) from ``level`` on; ``log_format`` is ``text`` or ``json``."""
    handler = logging.StreamHandler(stream or sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    logging.basicConfig(level=level, handlers=[handler])
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns at each start that it takes no signals: they are ours.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
