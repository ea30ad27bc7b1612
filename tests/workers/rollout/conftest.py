"""Makes ``rollout_builders`` and ``engine_contract`` importable: with ``--import-mode=importlib`` a test's own folder
is not on the path."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("engine_contract")
