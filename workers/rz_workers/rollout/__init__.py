"""The rollout worker: samples lease units and stores them as shards. ``main`` opens with its loop.

::

    main ──> startup              the run's folder, model files, which engine
      ├────> leases               what may still be written; the heartbeat thread
      ├────> scoring              responses on their way to the reward service
      ├────> metrics              counters on the status port
      └────> engine               the interface ── transformers_engine ──> decode ─┬─> kv_cache
                                                                                   ├─> sampling
                                                                                   └─> stopping
"""
