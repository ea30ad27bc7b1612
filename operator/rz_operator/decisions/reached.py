"""Of a ledger's answer these few facts reach a decision and nothing else (docs/decisions/0005); the rest is for people.

The answer is the JSON of the ledger's read-only ``/status`` (``LedgerStatus`` in the workers' protocol). Pure; called
by ``local.runner`` and ``reconcile``.
"""

from __future__ import annotations

from typing import Any

from rz_operator.decisions.members import Reached

LedgerStatus = dict[str, Any]


def reached_of(status: LedgerStatus | None) -> Reached | None:
    """None while the ledger is not up to date: it gave no answer, or is still adopting leases."""
    if status is None or status.get("phase") == "adopting":
        return None
    incarnation = status.get("incarnation")
    return Reached(
        step=_number(status, "step"),
        units_done=_number(status, "units_done"),
        eval_units_done=_number(status, "eval_units_done"),
        incarnation=incarnation if isinstance(incarnation, int) else None,
    )


def _number(status: LedgerStatus, key: str) -> int:
    value = status.get(key)
    return value if isinstance(value, int) else 0
