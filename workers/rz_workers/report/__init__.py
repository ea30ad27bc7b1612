"""The report of a run: curves, timeline, samples, ``summary.json``, ``trace.json``, read from the run's folder alone.

``python -m rz_workers.report STORAGE_URI --out DIR``; ``rz report`` starts the same command.
"""
