"""Nothing that a worker reads is a pickle: a pickle runs what its author likes, and beside a worker lie the bucket's
credentials. Read from the source, so that a way that no test takes counts too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("crds/rz_api", "operator/rz_operator", "workers/rz_workers")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "multiprocessing"}
"""``multiprocessing`` sends pickles through its pipes and queues."""
DEEP_MODULES = (
    "torch.distributed.checkpoint.state_dict_loader",
    "torch.distributed.checkpoint.state_dict_saver",
    "torch.distributed.rpc",
    "torch.multiprocessing",
)
ITSELF = {"torch.distributed.checkpoint"}
"""Its ``save`` and ``load``: ranks exchange plans, results and exceptions. What is below it may be imported."""
CALLS = {
    "all_gather_object",
    "broadcast_object_list",
    "gather_object",
    "recv_object_list",
    "scatter_object_list",
    "send_object_list",
    "read_pickle",
    "ProcessPoolExecutor",
}
KEYWORDS = {"broadcast_from_rank0": "torch tells the other ranks names and shapes by a pickle"}


def complaints(source: str) -> Iterator[str]:
    """What in a module reads or writes pickles, by line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            base = f"{node.module}." if isinstance(node, ast.ImportFrom) and node.module else ""
            for name in [base.rstrip(".")] * bool(base) + [base + alias.name for alias in node.names]:
                is_module = name.split(".")[0] in MODULES or name.startswith(DEEP_MODULES) or name in ITSELF
                if is_module or name.rpartition(".")[2] in CALLS:
                    yield f"{node.lineno}: imports {name}"
        elif isinstance(node, ast.Attribute | ast.Name):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if name in CALLS:
                yield f"{node.lineno}: uses {name}"
        elif isinstance(node, ast.Call):
            yield from _of_call(node)


def _of_call(call: ast.Call) -> Iterator[str]:
    called = ast.unparse(call.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    for keyword in KEYWORDS.keys() & given.keys():
        yield f"{call.lineno}: {keyword}: {KEYWORDS[keyword]}"
    if called == "torch.load" and given.get("weights_only") != "True":
        yield f"{call.lineno}: torch.load without weights_only=True"
    if called == "torch.save":
        yield f"{call.lineno}: torch.save"
    if called.rpartition(".")[2] == "load" and given.get("allow_pickle", "False") != "False":
        yield f"{call.lineno}: {called} with allow_pickle"
    if called.rpartition(".")[2] == "from_pretrained" and given.get("use_safetensors") == "False":
        yield f"{call.lineno}: {called} with use_safetensors=False"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_reads_or_writes_pickles(path: Path) -> None:
    assert list(complaints(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import os, marshal",
        "import torch.multiprocessing as mp",
        "from multiprocessing.connection import Connection",
        "from torch.distributed.checkpoint import state_dict_loader",
        "from torch.distributed.checkpoint import save",
        "import torch.distributed.checkpoint as dcp",
        "from torch.distributed import all_gather_object",
        "dist.broadcast_object_list(box, src=0)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.save(state, path)",
        "np.load(path, allow_pickle=True)",
        "StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)",
    ],
)
def test_the_scan_finds(source: str) -> None:
    assert len(list(complaints(source))) >= 1


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "json.loads(text)",
        "np.load(path)",
        "from torch.distributed.checkpoint.state_dict import StateDictOptions",
    ],
)
def test_the_scan_leaves_alone(source: str) -> None:
    assert list(complaints(source)) == []
