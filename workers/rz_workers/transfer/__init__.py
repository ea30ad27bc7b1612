"""Broadcast of weights from trainer ranks to rollouts: ``sender`` on one side, ``receiver`` on the other.

Storage is the way that always works (``rz_workers.storage.weights``); this one is faster and may fail at any time.
"""
