"""docs/metrics.md says what the registry says, for ``python -m rz_api.metrics_doc [--check]`` writes it from there."""

from __future__ import annotations

import sys
from pathlib import Path

from rz_api.metrics import FAMILIES, Family, Server

PATH = Path(__file__).parent.parent.parent / "docs" / "metrics.md"

INTRODUCTION = """# Metrics

<!-- Written by `python -m rz_api.metrics_doc` from crds/rz_api/metrics.py and crds/rz_api/step_metrics.py. -->

Every role serves `/metrics` on its read-only port, `status` (9400 in a pod), the operator on its own (8080). The
chart's PodMonitor scrapes the pods of runs and puts on the labels `namespace`, `run`, `role` and `pod`; the names below
are without them. Where several processes share a pod, each has a port: `status`, `status-1`, and so on.

- **Figures of a step** are gauges, `rz_trainer_<name>`, served by the trainer's first rank. They keep the value of the
  newest committed step until the next one, which may be an hour later; what a step does not have (no correct
  trajectory, say) is not there. The same names, without the prefix, are the keys of `metrics.jsonl`, of the commits in
  storage and of TensorBoard.
- **Counters** begin at 0 with their process: use `rate` or `increase`. A restart of the trainer shows as one more
  `rz_ledger_incarnation`; steps that are computed again count in `rz_trainer_steps_replayed_total`.
- vLLM's own metrics (`vllm:*`) are on the rollouts' port; `process_*` and `python_*` on all of them.
- No label grows without bound: none holds a prompt, a step, a trajectory or the name of a pod.
"""

SECTIONS: dict[Server, tuple[str, str]] = {
    "ledger": ("Ledger", "Progress of the run, leases, evaluations. None of it vanishes while the trainer restarts."),
    "trainer": ("Trainer", "Figures of a step first, then what the process did."),
    "rollout": ("Rollout", "Sampling and the weights that it is done with."),
    "reward": ("Reward", "Verdicts and the processes that compare."),
    "worker": ("Storage", "Served by whoever speaks to object storage: ledger, rollouts, trainer."),
    "operator": ("Operator", "One process for all runs; none of these has the label `run`."),
}  # fmt: skip
"""Server -> heading and introduction of its table, in the order of the page."""


def render() -> str:
    parts = [INTRODUCTION]
    for server, (heading, text) in SECTIONS.items():
        rows = "".join(_row(family) for family in FAMILIES.values() if family.server == server)
        parts.append(f"## {heading}\n\n{text}\n\n| metric | type | unit | what it is |\n|---|---|---|---|\n{rows}")
    return "\n".join(parts)


def _row(family: Family) -> str:
    labels = "".join(f"<br>`{label}`: {values}" for label, values in family.labels.items())
    # A bar ends a cell of a Markdown table.
    words = f"{family.formula}{labels}".replace("|", "\\|")
    return f"| `{family.name}` | {family.kind} | {family.unit} | {words} |\n"


def main() -> None:
    text = render()
    if "--check" not in sys.argv[1:]:
        PATH.write_text(text)
    elif not PATH.exists() or PATH.read_text() != text:
        sys.exit(f"{PATH.name} is not what the registry says: run `python -m rz_api.metrics_doc`")


if __name__ == "__main__":
    main()
