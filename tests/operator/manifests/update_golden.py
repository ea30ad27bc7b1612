"""``python tests/operator/manifests/update_golden.py`` writes the golden files, to be reviewed with ``git diff``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from manifest_builders import GOLDEN, cases, golden_text


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    wanted = {f"{name}.yaml": golden_text(context) for name, context in cases().items()}
    for path in GOLDEN.glob("*.yaml"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (GOLDEN / name).write_text(text, encoding="utf-8")
    print(f"{len(wanted)} files in {GOLDEN.name}/")


if __name__ == "__main__":
    main()
