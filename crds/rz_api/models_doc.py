"""docs/models.md says what was measured, for ``python -m rz_api.models_doc [--check]`` writes it from docs/models.json.

The conformance suite (tests/workers/trainer/models) measures, and fails where the file says otherwise; ``make models``
writes both anew.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

DOCS = Path(__file__).parent.parent.parent / "docs"
DATA, PATH = DOCS / "models.json", DOCS / "models.md"


class Model(BaseModel):
    """The verdict on a type of model (``model_type`` of its config.json)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    class_name: str
    """transformers' class of its causal language model."""
    verdict: Literal["right", "refused", "wrong"]
    reason: str | None
    below: float | None
    """Power of ten below which every deviation was."""
    critic: str | None
    """Format of its exported critic."""


class Models(BaseModel):
    """docs/models.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    transformers: str
    vllm: str
    vllm_classes: list[str]
    """Classes of causal language models that transformers has and this vLLM too."""
    models: dict[str, Model]


def read() -> Models:
    return Models.model_validate_json(DATA.read_text())


def write(models: Models) -> None:
    DATA.write_text(json.dumps(models.model_dump(), indent=1) + "\n")
    PATH.write_text(render(models))


def vllm_of(root: Path) -> str:
    """The version of vLLM that pyproject.toml names."""
    found = re.search(r'"vllm==([^"]+)"', (root / "pyproject.toml").read_text())
    assert found is not None
    return found[1]


def render(models: Models) -> str:
    right = {name: each for name, each in models.models.items() if each.verdict == "right"}
    rows = "".join(_row(name, each, models) for name, each in sorted(right.items()))
    refused = "".join(
        f"- {why}: {', '.join(f'`{name}`' for name in names)}.\n" for why, names in _refused(models.models).items()
    )
    return f"""# Which models can be trained

<!-- Written by `python -m rz_api.models_doc` from docs/models.json, which `make models` measures. -->

A model is trained as what it is, or refused in one sentence before anything is claimed or stored. First its
`config.json` is judged; `rz plan` does the same on your machine, and `rz validate run.yaml --model config.json`. Then,
at the start of a run, the *start-up proof* makes a small copy of the model with random weights, with every kind of
layer that it has and windows of a few tokens, and compares what the trainer computes with what the model computes by
itself.

The tables are what came out for each of the {len(models.models)} types of causal language models of transformers
{models.transformers}, of the default configuration of its class (with windows and mixed layers where published models
have them). The type is `model_type` of a `config.json`. A model that comes with code of its own (`trustRemoteCode`) is
judged at the start like any other.

## Trained right: {len(right)}

Three packed sequences of 40, 23 and 7 tokens, windows of 16, fp32, against a loop over the sequences through the
model's own forward pass: log-probs (nats), values, and the gradients of one policy update and of one critic update (as
a share of the largest entry). The column has the power of ten that all deviations stayed below; 1e-4 is the most that
is called right. *Critic* is the format of its export. The engine `transformers` samples with the same classes; *vLLM*
is whether vLLM {models.vllm} has the class itself (its `model_executor/models/registry.py`).

| type | class | deviation | critic | vLLM |
|---|---|---|---|---|
{rows}
## Refused: {len(models.models) - len(right)}

{refused}"""


def _row(name: str, model: Model, models: Models) -> str:
    vllm = "yes" if model.class_name in models.vllm_classes else "no"
    return f"| `{name}` | `{model.class_name}` | below {model.below:.0e} | {model.critic} | {vllm} |\n"


def _refused(models: Mapping[str, Model]) -> dict[str, list[str]]:
    """Types by why they are refused, in a few words; the reason that most have first."""
    found: dict[str, list[str]] = {}
    for name, model in sorted(models.items()):
        if model.verdict == "refused":
            found.setdefault(_in_short(model.reason or ""), []).append(name)
    return dict(sorted(found.items(), key=lambda each: (-len(each[1]), each[0])))


def _in_short(reason: str) -> str:
    """``models of type 'x' are mixtures of experts (8 of them), which is not supported; …`` -> ``are mixtures of
    experts``."""
    short = re.sub(r"^models of type \S+ |^(a small copy of )?the model \(type \S+\) ", "", reason)
    short = re.sub(r"(, which is not supported; |, so that |: a causal |\. A causal | \(\d+ of them\)).*", "", short)
    short = re.sub(r"<class '[\w.]*\.(\w+)'>", r"\1", short)
    return re.sub(r"\bof type \S+", "of this type", short).rstrip(".:")


def main() -> None:
    text = render(read())
    if "--check" not in sys.argv[1:]:
        PATH.write_text(text)
    elif not PATH.exists() or PATH.read_text() != text:
        sys.exit(f"{PATH.name} is not what {DATA.name} says: run `python -m rz_api.models_doc`")


if __name__ == "__main__":
    main()
