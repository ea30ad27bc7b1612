"""The rollout worker: samples lease units and stores them as shards. ``main`` opens with its loop.

::

    main ──> startup              the run's folder, model files, which engine
      ├────> leases               what may still be written; the heartbeat thread
      ├────> scoring              responses on their way to the reward service
      ├────> metrics              counters on the status port
      ├────> weights, proof       which version the engine holds, and that it computes with it
      ├────> admission            how many units are sampled at a time
      └────> engines.interface ─┬─ engines.transformers ──> decode ──> kv_cache, sampling
                                └─ engines.vllm ──> worker, transfer, live_weights, in vLLM's own processes
"""
