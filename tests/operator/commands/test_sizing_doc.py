"""The tables of docs/sizing.md are what the estimates say. Run as a program, this file writes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rz_api.estimate import GB, Assumptions, estimate, trainer_memory
from rz_api.gpus import GPUS
from rz_api.shapes import ModelShape
from rz_api.spec import ReasonerZeroRunSpec
from rz_operator.commands.model_config import KNOWN

DOC = Path(__file__).parents[3] / "docs" / "sizing.md"
COLOCATED = {"placement": "colocated"}
LAYOUTS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("0.5B", "A100-40GB", {"nodes": 1, "gpusPerNode": 1}, COLOCATED),
    ("0.5B", "A100-80GB", {"nodes": 1, "gpusPerNode": 8}, COLOCATED),
    ("1.5B", "A100-80GB", {"nodes": 2}, COLOCATED),
    ("1.5B", "H100-80GB", {"nodes": 1}, {"replicas": 4}),
    ("7B", "A100-80GB", {"nodes": 5}, {"replicas": 24}),
    ("7B", "H100-80GB", {"nodes": 5}, {"replicas": 24}),
    ("7B", "H100-80GB", {"nodes": 6}, {"replicas": 16}),
    ("7B", "H200-141GB", {"nodes": 6}, {"replicas": 16}),
    ("14B", "H100-80GB", {"nodes": 6}, {"replicas": 16}),
    ("32B", "H100-80GB", {"nodes": 13}, {"replicas": 6, "tensorParallel": 4}),
    ("32B", "H200-141GB", {"nodes": 13}, {"replicas": 12, "tensorParallel": 2}),
]


def spec(trainer: dict[str, Any], rollout: dict[str, Any]) -> ReasonerZeroRunSpec:
    document = {
        "model": {"name": "m"},
        "data": {"train": [{"uri": "d"}]},
        "storage": {"uri": "s"},
        "trainer": trainer,
        "rollout": rollout,
    }
    return ReasonerZeroRunSpec.model_validate(document)


def shape(model: str) -> ModelShape:
    return ModelShape.from_config(KNOWN[f"Qwen/Qwen2.5-{model}"])


def layouts() -> str:
    rows = ["| model | GPU | trainer | rollouts | GB a trainer GPU | seconds a step | generation | behind |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for model, gpu, trainer, rollout in LAYOUTS:
        run = spec(trainer, rollout)
        made = estimate(run, shape(model), Assumptions.for_spec(run, GPUS[gpu]))
        assert not made.problems, (model, gpu, made.problems)
        where = (
            "on the same GPUs" if rollout == COLOCATED else f"{run.rollout.replicas} x tp {run.rollout.tensor_parallel}"
        )
        behind = f"{made.time.critic:.0f}" if made.time.overlaps else "-"
        rows.append(
            f"| {model} | {gpu} | {run.trainer.nodes} x {run.trainer.gpus_per_node} | {where} | "
            f"{made.trainer.total / GB:.0f} | {made.time.total:.0f} | {made.time.generate:.0f} | {behind} |"
        )
    return "\n".join(rows)


def smallest() -> str:
    kinds = ("A100-40GB", "A100-80GB", "H100-80GB", "H200-141GB")
    rows = ["| model | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]
    for name in KNOWN:
        model = name.removeprefix("Qwen/Qwen2.5-")
        cells = [_fewest(model, GPUS[kind].memory) for kind in kinds]
        rows.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _fewest(model: str, memory: float) -> str:
    candidates = [(1, gpus) for gpus in (1, 2, 4, 8)] + [(nodes, 8) for nodes in range(2, 65)]
    for nodes, gpus in candidates:
        if trainer_memory(spec({"nodes": nodes, "gpusPerNode": gpus}, {}), shape(model), memory).fits:
            return str(nodes * gpus)
    return "-"


TABLES = {"layouts": layouts, "smallest": smallest}


def filled_in(text: str) -> str:
    for name, table in TABLES.items():
        text = re.sub(
            rf"<!-- {name} -->.*?<!-- /{name} -->", f"<!-- {name} -->\n{table()}\n<!-- /{name} -->", text, flags=re.S
        )
    return text


def test_the_tables_are_what_the_estimates_say() -> None:
    text = DOC.read_text()
    assert text == filled_in(text), "run: python tests/operator/commands/test_sizing_doc.py"


if __name__ == "__main__":
    DOC.write_text(filled_in(DOC.read_text()))
