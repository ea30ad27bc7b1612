"""What only the user can repair is one kind of error, and its message says how."""

from __future__ import annotations


class UserError(ValueError):
    """The message says what was found, what was required and what to change. ``rz`` prints it and ends with 64."""
