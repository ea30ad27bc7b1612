"""A broadcast may fail at any time: storage is the way that always works (``rz_workers.storage.weights``), this one is
faster.

Weights from trainer ranks to rollouts: ``sender`` on one side, ``receiver`` on the other.
"""
