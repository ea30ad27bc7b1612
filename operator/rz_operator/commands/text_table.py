"""A word is never broken: a path, a command or a field's name can be copied as it stands.

Tables and paragraphs as lines of text for a terminal of some width; a word that is longer than a line is a longer line.
Pure; for ``rz plan`` and ``rz status``. Nothing is drawn around a table, so that it reads the same in a file, in a log
and in ``less``.
"""

from __future__ import annotations

import os
import textwrap
from typing import TextIO

GAP = "   "
Rows = list[tuple[str, ...]]
"""A table: the header, and the rows below it."""


def wrapped(text: str, width: int | None, below: str = "") -> list[str]:
    """``text`` as lines of at most ``width`` characters, broken at blanks; every line but the first begins with
    ``below``. Line breaks and blanks of ``text`` are kept. None: lines of any length."""
    lines = text.split("\n")
    if width is None:
        return lines
    return [part for line in lines for part in _wrap(line, width, "", below)]


def table(rows: Rows, width: int | None) -> list[str]:
    """Rows of cells, the first one the header, as aligned columns. Cells of the last column go on in the lines below
    where ``width`` asks for it; the others are always whole.

    >>> table([("ROLE", "COMMAND"), ("ledger", "python -m rz_workers.ledger")], 26)
    ['ROLE     COMMAND', 'ledger   python -m', '         rz_workers.ledger']
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    below = " " * sum(each + len(GAP) for each in widths)
    lines = []
    for row in rows:
        start = "".join(cell.ljust(each) + GAP for cell, each in zip(row, widths, strict=False))
        whole = (start + row[-1]).rstrip()
        lines += [whole] if width is None else _wrap(row[-1], width, start, below)
    return lines


def _wrap(text: str, width: int, first: str, below: str) -> list[str]:
    parts = textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=below,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
    return parts or [first.rstrip()]


def width_of(stream: TextIO) -> int | None:
    """Columns of the terminal that ``stream`` is, or what ``COLUMNS`` says; None where neither does."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None
