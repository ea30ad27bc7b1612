"""Each verifier is a function of its example alone, and names the rule by which it decided.

What ``reward.verifier`` can name, by ``registry``: ``math-verify`` and ``legacy``, which are libraries, and our own.
They run in verifier children (``rz_workers.reward.child``); only ``load_verifier`` imports a library.
"""

from rz_workers.reward.verifiers.registry import VERIFIERS, load_verifier

__all__ = ["VERIFIERS", "load_verifier"]
