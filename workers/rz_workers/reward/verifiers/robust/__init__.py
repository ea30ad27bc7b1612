"""The verifier ``robust``: rules of our own for each kind of answer, over Math-Verify (see ``verifier``)."""

from rz_workers.reward.verifiers.robust.verifier import robust_verifier

__all__ = ["robust_verifier"]
