"""Makes Grafana's JSON of ``panels``: ``python dashboards/render_dashboards.py`` writes it, ``--check`` compares.

The JSON is made by Grafana's own Foundation SDK and is what the chart installs (charts/generate.py copies it). It can
also be imported by hand: it asks for the data source.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import GraphDrawStyle, StackingMode, VisibilityMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    VariableHide,
    VariableRefresh,
    VariableSort,
)
from panels import PAGES, Page, Panel

FOLDER = Path(__file__).parent
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH, HEIGHT = 24, 8
TAG = "reasonerzero"


def render(page: Page) -> str:
    made = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .description(page.description)
        .tags([TAG])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .link(
            dashboard.DashboardLink("ReasonerZero")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    if page.by_run:
        made = made.with_variable(variable("namespace", "label_values(rz_ledger_step, namespace)", several=False))
        made = made.with_variable(
            variable("run", 'label_values(rz_ledger_step{namespace="$namespace"}, run)', several=True)
        )
        for annotation in annotations():
            made = made.annotation(annotation)
    for title, panels in page.rows.items():
        made = made.with_row(dashboard.Row(title))
        for panel in panels:
            made = made.with_panel(drawn(panel))
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


def variable(name: str, query: str, *, several: bool) -> dashboard.QueryVariable:
    made = (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .hide(VariableHide.DONT_HIDE)
        .multi(several)
        .include_all(several)
    )
    return made.all_value(".+") if several else made


def annotations() -> list[dashboard.AnnotationQuery]:
    """Where the trainer began anew, and where an evaluation was finished."""
    selector = '{namespace="$namespace", run=~"$run"}'
    queries = {
        "Restarts of the trainer": ("red", f"changes(rz_ledger_incarnation{selector}[$__interval]) > 0"),
        "Evaluations": ("blue", f"changes(rz_ledger_eval_version{selector}[$__interval]) > 0"),
    }
    return [
        dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(colour).expr(query)
        for name, (colour, query) in queries.items()
    ]


def drawn(panel: Panel) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.explained())
        .datasource(SOURCE)
        .unit(panel.unit)
        .height(HEIGHT)
        .span(WIDTH // 2 if panel.wide else WIDTH // 3)
        .draw_style(GraphDrawStyle.LINE)
        .line_width(2)
        .fill_opacity(20 if panel.stacked else 0)
        .show_points(VisibilityMode.NEVER)
        .legend(common.VizLegendOptions().show_legend(True))
    )
    if panel.stacked:
        made = made.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if panel.maximum is not None:
        made = made.min(0).max(panel.maximum)
    for number, (legend, query) in enumerate(panel.expressions().items()):
        made = made.with_target(
            prometheus.Dataquery().ref_id(chr(ord("A") + number)).expr(query).legend_format(legend).datasource(SOURCE)
        )
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the dashboards' JSON.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is not up to date")
    check = parser.parse_args().check
    stale = []
    for name, page in PAGES.items():
        file, text = FOLDER / f"{name}.json", render(page)
        if not check:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            stale.append(file.name)
    if stale:
        print(f"not up to date: {', '.join(stale)}; run `python dashboards/render_dashboards.py`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
