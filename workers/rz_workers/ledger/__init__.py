"""The ledger: leases, progress and weight versions of one run. ``main`` opens with its loop.

::

    main ──> server (uvicorn) ──> app (routes) ──> service (the one holder of State; talks to storage)
                                                      │
                          pure, no clock and no I/O:  ├─> leasing   lease, heartbeat, complete, expiry
                                                      ├─> progress  weights, steps, evaluation, drain
                                                      ├─> status    what people and the operator read
                                                      └─> state     the values all of them are about
                                          recovery <──┘ a State rebuilt from what storage holds
"""
