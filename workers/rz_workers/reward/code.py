"""The reward service runs code that it was given by the ledger, and reads no storage.

Files of the run's own verifiers, as the trainer stored them when the run started. Called by ``main``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

from rz_workers.protocol.messages import CodeReply
from rz_workers.runtime import WorkerError


class CodeClient(Protocol):
    """What is used of ``LedgerClient``."""

    def verifier_code(self, verifier: str) -> CodeReply: ...


def fetch_code(client: CodeClient, verifiers: tuple[str, ...], folder: Path) -> dict[str, str]:
    """Where the file of each of ``verifiers`` lies now, below ``folder``. Waits for a run that has not begun."""
    found = {}
    folder.mkdir(parents=True, exist_ok=True)
    for verifier in verifiers:
        reply = client.verifier_code(verifier)
        code = reply.code.encode()
        if hashlib.sha256(code).hexdigest() != reply.sha256:
            raise WorkerError(f"the ledger gave code of {verifier} that is not what its digest {reply.sha256} says")
        path = folder / f"{reply.sha256}.py"
        path.write_bytes(code)
        found[verifier] = str(path)
    return found
