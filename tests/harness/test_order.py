"""In which order ``make test`` begins its files."""

import doctest
import importlib.util
from pathlib import Path

CONFTEST = Path(__file__).parent.parent / "conftest.py"


def test_whole_runs_come_first_and_what_waits_beside_what_computes() -> None:
    spec = importlib.util.spec_from_file_location("conftest_of_all", CONFTEST)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    failed, tried = doctest.testmod(module)
    assert (failed, tried) == (0, 1)
