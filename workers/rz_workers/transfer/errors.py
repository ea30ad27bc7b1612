"""Imports no torch, for the rollout's main path imports it: what a broadcast raises."""

from rz_workers.runtime import WorkerError

__all__ = ["TransferError"]


class TransferError(WorkerError):
    """A broadcast did not arrive: nothing of it may be used, and its group is gone. Storage has the weights."""
