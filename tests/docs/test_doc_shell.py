"""The reader's shell itself: what fails there, and what a block finds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_shell import Outcome, Shell, Story
from machine_story import DOUBLES, DRY
from pages import PAGES, ROOT, Block, blocks


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "reader", tmp_path, {})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param("true\n", 0, id="that ends well"),
        pytest.param("gcloud auth login\n", 127, id="with a program that no story has"),
        pytest.param("false\ntrue\n", 1, id="with a command in it that fails"),
        pytest.param("false && true\ntrue\n", 1, id="with the first of a list failing"),
        pytest.param("false | true\n", 1, id="with the first of a pipe failing"),
        pytest.param("echo $NAME\n", 1, id="with a variable that nobody set"),
        pytest.param("sleep 60 | cat\n", None, id="that does not end"),
    ],
)
def test_a_block(shell: Shell, text: str, code: int | None) -> None:
    assert shell.run(text, seconds=1 if code is None else 10).code == code


def test_a_block_begins_in_the_folder_where_the_last_one_ended(shell: Shell, tmp_path: Path) -> None:
    assert shell.run("mkdir a && cd a\n", 10).code == 0
    assert shell.run("cd .. && false\n", 10).code == 1
    assert shell.run("pwd\n", 10) == Outcome(0, f"{tmp_path}/a\n")


def test_blocks_before_the_one_that_is_asked_for_are_run_and_each_once() -> None:
    ran = []

    def run(block: Block) -> Outcome:
        ran.append(block.text)
        return Outcome(0, block.text)

    texts = ("clone\ndemo\n", "status\n", "demo\n", "report\n")
    page = [Block(ROOT / "README.md", line, "sh", text) for line, text in enumerate(texts)]
    story = Story(page, run)
    assert story.outcome(page[1]).output == "status\n"
    assert ran == ["clone\ndemo\n", "status\n"]
    assert story.outcome(page[3]).output == "report\n"
    assert ran == ["clone\ndemo\n", "status\n", "report\n"], "demo is a part of the first"


def test_every_sh_block_is_for_a_machine_or_for_a_cluster() -> None:
    found = [block for page in PAGES for block in blocks(page) if block.language == "sh"]
    assert found
    assert [block.name for block in found if block.is_for_a_machine == block.is_for_a_cluster] == []


def test_what_make_only_says_and_what_is_played_is_there() -> None:
    assert set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)) >= DRY.keys()
    assert all(program in (ROOT / "docker" / "build.sh").read_text() for program in DOUBLES)
