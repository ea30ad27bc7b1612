"""The lines of a file of examples or pairs, each with its place for messages. Called by ``try_out`` and ``grade``."""

from __future__ import annotations

from pathlib import Path

from rz_workers.runtime import UserError


def read_lines(file: Path, required: str) -> list[tuple[str, str]]:
    """(where, text) of each line that is not empty.

    Raises UserError for a file that can't be read, and for one without lines: ``required`` says what it should have.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: the file cannot be read ({error}); JSON lines in UTF-8 are required") from None
    lines = [(f"{file}, line {n}", line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise UserError(f"{file}: {required}")
    return lines
