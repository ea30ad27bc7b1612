"""The next minor version of the contract and the operator: this one, with fields and a condition that this one lacks.

Made of this repository's own sources in a folder, for tests that take an operator up a version and down again. What is
new in it, and what an older version must be able to do without: a field of the spec (``trainer.nextField``), a counter
in the memory of decisions (``status.gang.nextCounter``), and a type of condition (``NextCondition``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from control_plane import OLDEST_WITH_CEL, ControlPlane, apply_crd, without_validations
from operator_process import ROOT
from server_process import child_environment

EDITS = (
    (
        "crds/rz_api/spec.py",
        "    watchdog_seconds: Annotated[float, Field(gt=0)] = 1800.0\n",
        '    next_field: int = 0\n    """Of the next version."""\n',
    ),
    (
        "crds/rz_api/status.py",
        "    failures_in_a_row: Annotated[int, Field(ge=0)] = 0\n",
        '    next_counter: int = 5\n    """Of the next version."""\n',
    ),
    ("crds/rz_api/conditions.py", '    "Suspended",\n]\n', ""),
    ("operator/rz_operator/controller/status_report.py", "    return found | _phase_findings(status)\n", ""),
)
"""File, the text before which something is put, and that; the last two replace (below)."""

REPLACED = {
    '    "Suspended",\n]\n': '    "Suspended",\n    "NextCondition",\n]\n',
    "    return found | _phase_findings(status)\n": (
        '    return found | _phase_findings(status) | {"NextCondition": Finding("True", "OfTheNextVersion")}\n'
    ),
}


class NextVersion:
    """``env`` makes a Python process one of the next version."""

    def __init__(self, folder: Path) -> None:
        for package in ("crds/rz_api", "operator/rz_operator"):
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        for file, anchor, before in EDITS:
            path = folder / file
            text = path.read_text()
            assert text.count(anchor) == 1, f"{file} has changed: find another place for what is new"
            path.write_text(text.replace(anchor, REPLACED.get(anchor, before + anchor)))
        self.env = {"PYTHONPATH": os.pathsep.join((str(folder / "crds"), str(folder / "operator")))}
        self._crd = folder / "crds" / "reasonerzeroruns.yaml"

    def apply_crd(self, plane: ControlPlane) -> None:
        """Its CRD, as an upgrade does first."""
        command = [sys.executable, "-m", "rz_api.crd"]
        subprocess.run(command, env=child_environment(**self.env), check=True, timeout=60)
        body = yaml.safe_load(self._crd.read_text())
        apply_crd(plane.api, body if plane.minor >= OLDEST_WITH_CEL else without_validations(body))
