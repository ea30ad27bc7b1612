"""``python -m rz_workers.rollout``: one rollout worker, configured by its environment (``rz_workers.runtime``)."""

from rz_workers.runtime import worker_process

with worker_process():
    from rz_workers.rollout.main import main

    main()
