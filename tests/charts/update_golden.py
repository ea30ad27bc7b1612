"""``python tests/charts/update_golden.py`` writes the golden files, to be reviewed with ``git diff``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "apiserver"))
sys.path.insert(0, str(Path(__file__).parent.parent / "operator" / "manifests"))

from helm import Helm
from helm_binaries import helm_folder
from profiles import GOLDEN, NAMES, golden_text
from server_process import child_environment


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        helm = Helm(helm_folder(), Path(folder), child_environment(HOME=folder))
        GOLDEN.mkdir(exist_ok=True)
        for name in NAMES:
            (GOLDEN / f"{name}.yaml").write_text(golden_text(helm, name), encoding="utf-8")
    print(f"{len(NAMES)} files in {GOLDEN.name}/")


if __name__ == "__main__":
    main()
