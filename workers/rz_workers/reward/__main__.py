"""``python -m rz_workers.reward``: the reward service (see ``main``)."""

from rz_workers.runtime import worker_process

if __name__ == "__main__":
    with worker_process():
        from rz_workers.reward.main import main

        main()
