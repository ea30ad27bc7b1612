"""The files at the root for who works here: AGENTS.md, and the hook that git runs before a commit."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

from pages import ROOT, code_in_prose, links

AGENTS = ROOT / "AGENTS.md"


def test_the_page_for_agents_is_read_whole() -> None:
    assert len(AGENTS.read_text().splitlines()) <= 60


def test_its_links_lead_to_files() -> None:
    paths = [link.partition("#")[0] for link in links(AGENTS)]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_what_it_has_one_make_is_a_target() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    named = {code.split()[1] for code in code_in_prose(AGENTS) if code.startswith("make ")}
    assert "verify" in named
    assert named - targets == set()


def test_the_hook_before_a_commit_is_make_verify_and_nothing_beside_it() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    [repository] = config["repos"]
    [hook] = repository["hooks"]
    assert repository["repo"] == "local"
    assert (hook["entry"], hook["language"]) == ("make verify", "system")
    # Whatever the commit holds: mypy and the checks of what is generated look at the whole repository.
    assert hook["always_run"]
    assert not hook["pass_filenames"]
