"""What a broadcast raises. No torch: the rollout's main path imports it."""

from rz_workers.runtime import WorkerError

__all__ = ["TransferError"]


class TransferError(WorkerError):
    """A broadcast did not arrive: nothing of it may be used, and its group is gone. Storage has the weights."""
