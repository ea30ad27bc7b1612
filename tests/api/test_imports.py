"""The contract is cheap to import: the operator and every worker do, and ``rz --help`` must stay instant."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "kopf", "kubernetes", "httpx", "fsspec", "pyarrow", "numpy", "fastapi", "rz_workers")


@pytest.mark.parametrize("module", ["rz_api", "rz_api.crd", "rz_api.document"])
def test_importing_it_brings_in_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_models_need_no_yaml() -> None:
    code = "import sys, rz_api; print('yaml' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_every_name_of_the_surface_is_there() -> None:
    import rz_api

    assert [name for name in rz_api.__all__ if not hasattr(rz_api, name)] == []
