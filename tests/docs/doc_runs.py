"""The files that blocks of the documentation name: what their page showed above them, put where the block begins.

Used by ``machine_story.py`` and ``cluster_story.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pages import ROOT, Block, blocks

from rz_api import names

RUN_FILE, OPERATOR_FILE = "run.yaml", "operator.yaml"
DEFAULT_RUN = ROOT / "examples" / "orz-7b.yaml"
"""What ``run.yaml`` is on a page that shows no run."""
BUCKET = "s3://bucket/"
FEW_PODS = {"rollout": {"replicas": 4}, "trainer": {"nodes": 1}}

Document = dict[str, Any]


def write_files(block: Block, folder: Path, changed: Callable[[Document], Document]) -> None:
    """Write the files that the block names; ``changed`` makes the run one for here."""
    if RUN_FILE in block.text:
        (folder / RUN_FILE).write_text(yaml.safe_dump(changed(_run_above(block))))
    if OPERATOR_FILE in block.text:
        shown = [each.text for each in blocks(block.page) if each.language == "yaml"]
        (text,) = [each for each in shown if "kind: Deployment" in each]
        (folder / OPERATOR_FILE).write_text(text)


def _run_above(block: Block) -> Document:
    """The last run that the page shows before the block."""
    shown = [each for each in blocks(block.page) if each.language == "yaml" and each.line < block.line]
    documents = [document for each in shown for document in yaml.safe_load_all(each.text)]
    runs = [document for document in documents if document.get("kind") == names.KIND]
    run: Document = runs[-1] if runs else yaml.safe_load(DEFAULT_RUN.read_text())
    return run


def laid_over(below: Document, above: Document) -> Document:
    """A copy of ``below`` with the fields of ``above`` in it, section by section."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = laid_over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def in_a_bucket(run: Document) -> Document:
    """What README.md has its reader do before a run goes to a cluster: paths become URLs that every pod reaches. With a
    few pods, which show as much as many."""
    spec = laid_over(run["spec"], FEW_PODS)
    places = [spec["storage"], *spec["data"]["train"], *spec["data"].get("eval", [])]
    for place in places:
        if "://" not in place["uri"]:
            place["uri"] = BUCKET + place["uri"]
    return run | {"spec": spec}
