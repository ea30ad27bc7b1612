"""Log lines, for people and for a log store."""

from __future__ import annotations

import json
import logging
import sys

from rz_operator.service.logs import JsonFormatter


def record(message: str, *arguments: object, failed: bool = False) -> logging.LogRecord:
    info = None
    if failed:
        try:
            raise ValueError("found 3")
        except ValueError:
            info = sys.exc_info()
    made = logging.LogRecord("rz_operator.x", logging.WARNING, "x.py", 1, message, arguments, info)
    made.created = 1_700_000_000.5
    return made


def test_a_line_is_one_json_object() -> None:
    line = JsonFormatter().format(record("%s: found\n%r, \u00e4", "team/orz", 'a "word"'))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.500Z",
        "level": "WARNING",
        "logger": "rz_operator.x",
        "message": "team/orz: found\n'a \"word\"', \u00e4",
    }


def test_an_exception_is_in_the_same_line() -> None:
    line = JsonFormatter().format(record("it failed", failed=True))
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: found 3")
