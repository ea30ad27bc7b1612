"""``python -m rz_workers.ledger``: started by the operator and by ``rz run``."""

from rz_workers.runtime import worker_process

if __name__ == "__main__":
    with worker_process():
        from rz_workers.ledger.main import main

        main()
