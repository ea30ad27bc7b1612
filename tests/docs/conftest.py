"""Lets the tests import what the chart's tests have, and this folder's modules."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "charts"))
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "charts"))
