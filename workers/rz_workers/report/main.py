"""``python -m rz_workers.report STORAGE_URI --out DIR``: what ``rz report`` starts.

1. Read the run from its folder (``record``).
2. Compute the summary (``summary``) and choose the samples (``samples``).
3. Draw the charts in both themes (``charts``, ``timeline``, ``style``).
4. Write the PNGs, ``summary.json``, ``trace.json`` and, last, ``report.html`` to DIR; say where it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rz_workers.report.charts import charts
from rz_workers.report.html import CAPTIONS, Image, page
from rz_workers.report.record import read_run
from rz_workers.report.samples import read_samples
from rz_workers.report.style import DARK, LIGHT, render
from rz_workers.report.summary import summarize
from rz_workers.report.trace import trace
from rz_workers.runtime import UserError
from rz_workers.storage.objects import ObjectStore


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the report that the command line asks for and print where it is.

    Raises UserError for a bad command line, a folder without a run or without a committed step, and an unwritable DIR.
    """
    parsed = _parser().parse_args(arguments)
    path, complete = write_report(parsed.storage_uri, parsed.out)
    print(f"{path}" if complete else f"{path} (the run is not finished)")


def write_report(storage_uri: str, out: Path) -> tuple[Path, bool]:
    """Write report, PNGs, ``summary.json`` and ``trace.json`` to ``out``; returns the page's path and whether the run
    is complete."""
    store = ObjectStore(storage_uri)
    record = read_run(store)
    summary = summarize(record)
    samples = read_samples(store, record.commits)
    try:
        out.mkdir(parents=True, exist_ok=True)
        images = {}
        for name, chart in charts(record).items():
            light = render(chart, LIGHT)
            (out / f"{name}.png").write_bytes(light)
            if name in CAPTIONS:
                images[name] = Image(light, render(chart, DARK))
        (out / "summary.json").write_text(json.dumps(summary.flat(), indent=2) + "\n")
        (out / "trace.json").write_text(json.dumps(trace(record)))
        path = out / "report.html"
        path.write_text(page(record, summary, images, samples), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the report to {out}: {error}; give a writable folder as --out") from error
    return path, summary.complete


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A bad command line is the user's error, with its exit code."""
        raise UserError(f"{message}; {self.format_usage().strip()}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m rz_workers.report", description="Draw the report of a run.")
    parser.add_argument("storage_uri", metavar="STORAGE_URI", help="the run's storage.uri: a folder or an fsspec URL")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where report.html and the PNGs go")
    return parser
