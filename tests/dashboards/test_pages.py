"""The dashboards: what is checked in is what the SDK makes, and they ask for metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from panels import PAGES, Panel
from render_dashboards import render

from rz_api.metrics import FAMILIES

ROOT = Path(__file__).parent.parent.parent
PANELS = [pytest.param(panel, id=f"{name}: {panel.title}") for name, page in PAGES.items() for panel in page.panels()]
HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")


def stored(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "dashboards" / f"{name}.json").read_text())
    return found


def targets(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [target for panel in board["panels"] for target in panel.get("targets", [])]


@pytest.mark.parametrize("name", PAGES)
def test_the_file_is_what_its_tables_give(name: str) -> None:
    text = (ROOT / "dashboards" / f"{name}.json").read_text()
    assert text == render(PAGES[name]), "run `python dashboards/render_dashboards.py` and `python charts/generate.py`"


@pytest.mark.parametrize("name", PAGES)
def test_the_file_passes_the_sdks_schema(name: str) -> None:
    board = stored(name)
    again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board)))
    assert again.keys() == board.keys()
    assert [panel["title"] for panel in again["panels"]] == [panel["title"] for panel in board["panels"]]
    assert [each["expr"] for each in targets(again)] == [each["expr"] for each in targets(board)]


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_asks_for_metrics_of_the_registry_and_says_what_it_shows(panel: Panel) -> None:
    assert len(panel.description) > 5
    assert panel.description.endswith(".")
    assert panel.unit in ("short", "s", "percentunit", "Bps")
    for query in panel.expressions().values():
        named = set(re.findall(r"\brz_[a-z0-9_]+", query))
        assert named, query
        for name in named:
            family = next((name.removesuffix(part) for part in HISTOGRAM_PARTS if name.endswith(part)), name)
            found = FAMILIES.get(name) or FAMILIES[family]
            assert (found.kind == "histogram") == (name != found.name), f"{name} is a {found.kind}"
            if found.kind == "counter":
                assert re.search(rf"(rate|increase)\({name}", query), f"{name} is a counter: its rate is wanted"


@pytest.mark.parametrize("name", PAGES)
def test_data_source_and_runs_are_chosen_by_variables(name: str) -> None:
    board = stored(name)
    variables = {each["name"] for each in board["templating"]["list"]}
    assert variables == ({"datasource", "namespace", "run"} if PAGES[name].by_run else {"datasource"})
    assert {each["datasource"]["uid"] for each in targets(board)} == {"${datasource}"}
    if PAGES[name].by_run:
        assert all('namespace="$namespace", run=~"$run"' in each["expr"] for each in targets(board))
        notes = {each["name"] for each in board["annotations"]["list"]}
        assert {"Restarts of the trainer", "Evaluations"} <= notes


def test_ids_are_unique_and_reward_and_length_come_first() -> None:
    boards = [stored(name) for name in PAGES]
    assert len({board["uid"] for board in boards}) == len(boards)
    first = [panel["title"] for panel in stored("training")["panels"] if panel["type"] != "row"]
    assert first[:2] == ["Reward", "Response length"]
    for board in boards:
        places = [tuple(sorted(panel["gridPos"].items())) for panel in board["panels"]]
        assert len(set(places)) == len(places), "two panels in one place"
