"""An exit code means the same from every role: what they end with, and what the operator makes of it (failure table).

Workers end themselves; the operator only reads these. 64 is BSD's EX_USAGE, 75 EX_TEMPFAIL.
"""

from __future__ import annotations

OK = 0
"""The role's work is done (trainer: the run is complete)."""

USER_ERROR = 64
"""The user must change something (spec, data, model, storage owner). Terminal at once, from any role."""

SUPERSEDED = 65
"""A newer incarnation of the trainer gang exists; this one may not write. Not counted, not restarted."""

# BSD's EX_SOFTWARE.
INTERNAL_ERROR = 70
"""An unexpected exception. Retriable, counted."""

DRAINED = 75
"""Stopped on request (SIGTERM, suspend) after saving what was needed. Retriable, not counted."""

WATCHDOG = 76
"""No progress for too long; the process ended itself. Retriable, counted."""
