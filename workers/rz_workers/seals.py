"""Nothing that came by a port without authentication is believed, or even parsed, before its seal has been compared.

A rendezvous store, and what ranks send each other, have none: whoever reaches the port may write there. So what
processes of one run tell each other outside of HTTP is sealed with a key that follows from the run's token. A seal says
that somebody with the token wrote these bytes for this place; it hides nothing.

Called by ``trainer.messages`` (between ranks) and ``transfer.control`` (between trainer and rollouts).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from rz_workers.runtime import WorkerError

__all__ = ["SEAL_BYTES", "ForgedError", "Seal"]

SEAL_BYTES = 32
"""HMAC-SHA256."""


class ForgedError(WorkerError):
    """Bytes that no process of this run has written, or not for the place where they were found."""


@dataclass(frozen=True)
class Seal:
    """For one purpose of one incarnation of the trainer gang.

    Example: ``Seal.of(token, "transfer", 3).close("group-1/join", b"{}")`` is 32 bytes and then ``{}``.
    """

    prefix: str
    """Of the keys in a store (64 hex digits): runs, purposes and incarnations never touch each other's. Not the token,
    which does not follow from it; and no secret, because a store lists its keys to whoever connects."""
    _key: bytes = field(repr=False)

    @staticmethod
    def of(token: str, purpose: str, incarnation: int) -> Seal:
        """The same for all who know the token (``runtime.read_token``)."""

        def derive(what: str) -> bytes:
            return hmac.digest(token.encode(), f"reasonerzero/{what}/{purpose}/{incarnation}".encode(), "sha256")

        return Seal(derive("prefix").hex(), derive("key"))

    def close(self, place: str, content: bytes) -> bytes:
        """``content`` with its seal in front. ``place`` names where it will be found; nobody can move it elsewhere."""
        return self._mac(place, content) + content

    def open(self, place: str, sealed: bytes) -> bytes:
        """The content. Raises ForgedError when somebody without the token wrote it, or wrote it for another place."""
        content = sealed[SEAL_BYTES:]
        if not hmac.compare_digest(sealed[:SEAL_BYTES], self._mac(place, content)):
            raise ForgedError(
                f"found {len(sealed)} bytes at {place!r} without the seal of this run; a message of a process that has "
                "the run's token is required. Something else writes to this port: see to it that NetworkPolicies are "
                "enforced (`helm test`), and that all pods have one token"
            )
        return content

    def _mac(self, place: str, content: bytes) -> bytes:
        where = place.encode()
        return hmac.digest(self._key, len(where).to_bytes(4, "big") + where + content, "sha256")
