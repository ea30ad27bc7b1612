"""``python -m rz_workers.node``: started by the operator in pods with more than one process."""

from rz_workers.node.main import main
from rz_workers.runtime import worker_process

if __name__ == "__main__":
    with worker_process():
        main()
