"""The blocks for one machine, run for real by one reader of all pages, in the clone that the first block makes.

Used by ``test_machine_blocks.py``. The reader begins with README.md, so that it is ``git clone`` and ``make demo`` that
make what later blocks look at. What is not as on the reader's own machine:

- The clone is of this working tree. A hook of git puts into it what ``make`` would install (links to the environment
  that the tests run in) and pre-train (a smaller base model, in seconds). Should make call pip after all, it finds no
  index and changes nothing.
- ``make demo`` and ``rz run`` take 2 steps (``DEMO_FLAGS``, and ``small_spec`` laid over the page's run).
- pytest, whoever starts it, only collects (``PYTEST_ADDOPTS``), and beside what it is told a small file, so that
  where it is told nothing it does not collect everything: its tests are the ones that run here.
- Of the make targets in ``DRY`` make only says what it would do; of a target that is not there it says so too.
- The programs in ``DOUBLES`` write down what they are asked.
- The API servers are in the cache already, as empty files, so that nobody builds them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from doc_runs import Document, laid_over, write_files
from doc_shell import Outcome, Shell, Story
from kube_binaries import CONTROL_PLANE_BINARIES, CRD_SERVER, KUBERNETES
from pages import PAGES, ROOT, Block, blocks
from small_run import small_spec

FIRST = ("README.md", "docs/getting-started.md", "CONTRIBUTING.md")
"""Pages in the order in which a newcomer reads them; the others follow."""
SECONDS = 240.0
"""For one block. All of them took 40 s on two cores."""

DRY = {
    "verify": "a minute of mypy; .ci/run has it run before the tests",
    "docs": "test_docs.py builds the site",
    "bench": "minutes, and figures that nobody would look at",
    "lock": "asks the package index for all versions",
    "test-vllm": "installs 3.5 GB",
    "test-newest": "installs an environment of its own",
    "test-oldest": "installs an environment of its own",
    "test-cluster": "without a KUBECONFIG it starts a Kubernetes, as root; .ci/run has it do so",
}
"""Targets of make that would take too long or too much, with the reason."""

DOUBLES = {
    "buildah": "an image takes minutes and a base image; make test-cluster builds them (docker/build.sh prefers it)",
}
"""Programs that are played, with the reason. They end with 0, and know the images that they were asked to build."""
DOUBLE = """printf '%s' "$0" >>"$HOME/calls"; printf ' %q' "$@" >>"$HOME/calls"; echo >>"$HOME/calls"
[[ $1 != images ]] || grep -o -e '--tag [^ ]*' "$HOME/calls" | while read -r _ image; do echo "$image  1 MB"; done"""

FEWER = {"algorithm.totalSteps": 2, "algorithm.promptsPerStep": 8, "algorithm.samplesPerPrompt": 4}
"""Of the demo; the base model answers worse than the demo's, so 96 tokens of most answers are looked at."""


def machine_blocks() -> list[Block]:
    """In the order in which they are run."""
    pages = sorted(PAGES, key=lambda page: FIRST.index(_name(page)) if _name(page) in FIRST else len(FIRST))
    return [block for page in pages for block in blocks(page) if block.is_for_a_machine]


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def machine_story(folder: Path, base: Path) -> Story:
    """``base``: what ``build_base.py`` made."""
    repository, template, work = folder / "repository", folder / "template", folder / "work"
    copy_working_tree(repository)
    _write_hook(template / "hooks" / "post-checkout", base)
    work.mkdir()
    demo = " ".join(f"--set {field}={value}" for field, value in FEWER.items())
    environment = {
        "GIT_TEMPLATE_DIR": str(template),
        "PIP_NO_INDEX": "1",
        "PIP_DRY_RUN": "1",
        "HF_HUB_OFFLINE": "1",
        "DEMO_FLAGS": demo,
        "PYTEST_ADDOPTS": "--collect-only -qq -p no:cacheprovider tests/examples/test_tiny_task.py",
    }
    shell = Shell(folder, work, environment)
    for name in DOUBLES:
        shell.put(name, DOUBLE)
    _play_make(shell)
    _fill_cache(shell.home / ".cache" / "reasonerzero" / "kubernetes")

    def small(run: Document) -> Document:
        spec = small_spec(base, folder)
        ours = {"model": spec["model"], "data": {k: v for k, v in spec["data"].items() if k not in ("train", "eval")}}
        rest = {key: value for key, value in spec.items() if key not in ("model", "data", "storage")}
        return laid_over(run, {"spec": laid_over({**rest, **ours}, {"algorithm": {"totalSteps": 2}})})

    def run(block: Block) -> Outcome:
        starts = re.search(r"^rz run\b", block.text, re.M) is not None
        write_files(block, shell.cwd, small if starts else lambda document: document)
        if starts:
            for data in base.glob("*.jsonl"):
                shutil.copy(data, shell.cwd)
        text = block.text.replace("<URL of this repository>", str(repository))
        if block.language == "python":
            text = f"python - <<'END'\n{text}END\n"
        return shell.run(text, SECONDS)

    return Story(machine_blocks(), run)


def copy_working_tree(to: Path) -> None:
    """A repository with one commit: this working tree, with what was changed and added in it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # one that was removed is still listed
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    who = ("-c", "user.name=reader", "-c", "user.email=reader@localhost", "-c", "commit.gpgsign=false")
    for words in (("init", "--quiet"), ("add", "--all"), (*who, "commit", "--quiet", "--no-verify", "--message", "x")):
        subprocess.run(["git", *words], cwd=to, check=True, capture_output=True)


def _write_hook(file: Path, base: Path) -> None:
    """What git runs in a new clone. The environment's own stamps are not linked: make compares their times."""
    makefile = (ROOT / "Makefile").read_text()
    folders = dict(re.findall(r"^(\w*VENV) := (\S+)$", makefile, re.M))
    stamps = {f"{folders[name]}/{stamp}" for name, stamp in re.findall(r"\$\((\w*VENV)\)/(\.[\w-]+)", makefile)}
    lines = ["set -eu"]
    for folder in sorted({stamp.split("/")[0] for stamp in stamps}):
        lines += [f"mkdir {folder}", f"ln -s '{sys.prefix}'/* {folder}/"]
    lines += [f"touch {' '.join(sorted(stamps))}", "mkdir -p runs/tiny"]
    lines += [f"cp -R '{base}' runs/tiny/base", "echo '{}' >runs/tiny/base/manifest.json"]
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    file.chmod(0o755)


def _play_make(shell: Shell) -> None:
    make = shutil.which("make")
    assert make, "make is needed"
    dry = "\n".join(f'  *" {target} "*) exec {make} --dry-run "$@" ;;  # {why}' for target, why in DRY.items())
    shell.put("make", f'case " $* " in\n  *" test-cluster KUBECONFIG="*) ;;\n{dry}\nesac\nexec {make} "$@"')


def _fill_cache(folder: Path) -> None:
    for binary in (*(f"{KUBERNETES}/{name}" for name in CONTROL_PLANE_BINARIES), f"crd-server/{CRD_SERVER}"):
        (folder / binary).parent.mkdir(parents=True, exist_ok=True)
        (folder / binary).touch()
