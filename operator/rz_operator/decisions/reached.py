"""Of a ledger's answer these few facts reach a decision and nothing else (docs/decisions/0005); the rest is for people.

The answer is the JSON of the ledger's read-only ``/status`` (``LedgerStatus`` in the workers' protocol). Pure; called
by ``local.runner`` and ``reconcile``.
"""

from __future__ import annotations

from typing import Any

from rz_api import names
from rz_operator.decisions.members import Reached

LedgerStatus = dict[str, Any]


def reached_of(status: LedgerStatus | None) -> Reached | None:
    """None while the ledger is not up to date: it gave no answer, or is still adopting leases."""
    if status is None or status.get("phase") == "adopting":
        return None
    incarnation = _number(status, "incarnation")
    return Reached(
        step=_number(status, "step"),
        units_done=_number(status, "units_done"),
        eval_units_done=_number(status, "eval_units_done"),
        # A ledger is a pod of somebody's: what it says must not run the operator out of numbers.
        incarnation=incarnation if 1 <= incarnation < names.MAX_INCARNATION else None,
    )


def _number(status: LedgerStatus, key: str) -> int:
    """A count that an API server can hold; 0 for anything else."""
    value = status.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return value if 0 <= value < 2**53 else 0
