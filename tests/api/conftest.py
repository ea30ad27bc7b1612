"""Makes ``api_builders`` and ``mini_cel`` importable: importlib mode does not put a test's folder on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
