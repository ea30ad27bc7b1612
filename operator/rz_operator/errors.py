"""The one error of this package that a user can do something about."""

from __future__ import annotations


class UserError(ValueError):
    """The message says what was found, what was required and what to change. ``rz`` prints it and ends with 64."""
