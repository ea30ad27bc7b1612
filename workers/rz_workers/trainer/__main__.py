"""``python -m rz_workers.trainer``: one rank of the gang."""

from rz_workers.runtime import worker_process

if __name__ == "__main__":
    with worker_process():
        from rz_workers.trainer.main import main

        main()
