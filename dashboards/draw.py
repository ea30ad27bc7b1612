"""Draws what a dashboard shows, from a Prometheus: ``python dashboards/draw.py URL [--page training] --out FILE.png``.

The same panels and the same queries as Grafana's, for the docs and for machines without Grafana; matplotlib does it.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import httpx
import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import PercentFormatter
from panels import PAGES, Page, Panel

COLUMNS = 3
POINTS = 240


def filled(query: str, namespace: str, run: str, seconds: float) -> str:
    """A panel's query with Grafana's variables filled in."""
    interval = f"{max(10, round(seconds))}s"
    values = {"$namespace": namespace, "$run": run, "$__rate_interval": interval, "$__interval": interval}
    for name, value in values.items():
        query = query.replace(name, value)
    return query


def legend(pattern: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        pattern = pattern.replace("{{" + name + "}}", value)
    return pattern


def ask(url: str, query: str, start: float, end: float) -> list[dict[str, Any]]:
    step = max(1.0, (end - start) / POINTS)
    asked = {"query": query, "start": str(start), "end": str(end), "step": str(step)}
    answer = httpx.get(f"{url}/api/v1/query_range", params=asked, timeout=60).json()
    if answer["status"] != "success":
        raise SystemExit(f"{url} refused {query!r}: {answer.get('error')}")
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def draw(panel: Panel, axes: Axes, url: str, namespace: str, run: str, start: float, end: float) -> None:
    for pattern, query in panel.expressions().items():
        for series in ask(url, filled(query, namespace, run, 4 * (end - start) / POINTS), start, end):
            times = [datetime.fromtimestamp(float(at)) for at, _ in series["values"]]
            axes.plot(times, [float(value) for _, value in series["values"]], label=legend(pattern, series["metric"]))
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    locator = AutoDateLocator(maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    if panel.unit == "percentunit":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(bottom=0 if panel.maximum is not None else None, top=panel.maximum)
    if axes.lines:
        axes.legend(fontsize=6, frameon=False)


def picture(page: Page, url: str, namespace: str, run: str, start: float, end: float) -> pyplot.Figure:
    panels = page.panels()
    rows = -(-len(panels) // COLUMNS)
    figure, grid = pyplot.subplots(rows, COLUMNS, figsize=(15, 2.6 * rows), layout="constrained", squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for panel, axes in zip(panels, grid.flat, strict=False):
        draw(panel, axes, url, namespace, run, start, end)
    figure.suptitle(f"{page.title}: {run}", fontsize=12)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a dashboard from a Prometheus.")
    parser.add_argument("url", help="of the Prometheus")
    parser.add_argument("--page", choices=sorted(PAGES), default="training")
    parser.add_argument("--namespace", default="local", help="label of the run (default: that of `rz run`)")
    parser.add_argument("--run", default=".+", help="name of the run, or a regular expression")
    parser.add_argument("--minutes", type=float, default=60.0, help="how far back")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    end = time.time()
    page = PAGES[options.page]
    figure = picture(page, options.url, options.namespace, options.run, end - 60 * options.minutes, end)
    figure.savefig(options.out, dpi=75)


if __name__ == "__main__":
    main()
