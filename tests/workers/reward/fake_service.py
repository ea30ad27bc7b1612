"""``python -m rz_workers.reward`` with the verifier children of ``fake_child``. ``test_service`` starts it."""

from __future__ import annotations

import sys
from pathlib import Path

from rz_workers.runtime import worker_process

if __name__ == "__main__":
    with worker_process():
        from rz_workers.reward.main import main

        main(fork_server=(sys.executable, str(Path(__file__).with_name("fake_child.py"))))
