"""Every ``sh`` block for one machine is run, and ends with 0. ``machine_story.py`` says how, and what is played."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_shell import Story
from machine_story import machine_blocks, machine_story
from pages import Block

pytestmark = pytest.mark.local


@pytest.fixture(scope="module")
def story(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    return machine_story(tmp_path_factory.mktemp("reader"), base)


@pytest.mark.parametrize("block", [pytest.param(block, id=block.name) for block in machine_blocks()])
def test_a_block_for_one_machine_does_what_it_says(story: Story, block: Block) -> None:
    story.outcome(block).assert_good(block)
