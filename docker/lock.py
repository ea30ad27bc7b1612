"""Writes docker/constraints/NAME.txt: the exact version of every package of an image, as pip resolves it today.

``python docker/lock.py [NAME …]``, with Python 3.11 on Linux x86-64, as the images have. Nothing is installed. A newer
version of something comes in by running this again; tests/docker checks that what is written still satisfies
pyproject.toml.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONSTRAINTS = Path(__file__).parent / "constraints"
BUCKETS = "s3,gcs,azure"
EXTRAS = {
    "operator": "operator",
    "reward": f"reward,{BUCKETS}",
    "worker": f"vllm,trainer,{BUCKETS}",
    "worker-cpu": f"rollout,trainer,{BUCKETS}",
}
"""Image -> extras of pyproject.toml. The CPU variant samples with transformers."""


def resolve(extras: str) -> list[str]:
    """``name==version`` of every package but this one, sorted."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    answer = subprocess.run([*command, f"{ROOT}[{extras}]"], check=True, stdout=subprocess.PIPE, text=True).stdout
    packages = [each["metadata"] for each in json.loads(answer)["install"]]
    # A local part ("+cpu") names one index's build of a release: which build is taken is for whoever builds the image.
    pins = {each["name"].lower(): each["version"].partition("+")[0] for each in packages}
    return sorted(f"{name}=={version}" for name, version in pins.items() if name != "reasonerzero")


def main() -> None:
    parser = argparse.ArgumentParser(description="Pin what the images contain.")
    parser.add_argument("names", nargs="*", default=list(EXTRAS), metavar="NAME", help=", ".join(EXTRAS))
    for name in parser.parse_args().names:
        pins = resolve(EXTRAS[name])
        text = f"# Written by `python docker/lock.py {name}`: extras {EXTRAS[name]} of pyproject.toml.\n"
        (CONSTRAINTS / f"{name}.txt").write_text(text + "\n".join(pins) + "\n")
        print(f"{name}: {len(pins)} packages")


if __name__ == "__main__":
    main()
