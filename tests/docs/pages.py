"""The pages of the documentation: their fenced blocks, links and headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "charts/**/*.md", "examples/**/*.md", "tests/**/*.md")
    for page in ROOT.glob(pattern)
    if "node_modules" not in page.parts and not page.name.endswith(".in.md")
)
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^(?P=indent)```\s*$", re.M | re.S)
CLUSTER = re.compile(r"(^|[|;] *)(kubectl|helm|rz (submit|logs|suspend|resume|status .*-n))\b", re.M)
"""What is in a block that takes an API server."""
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]*)`")
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_for_a_cluster(self) -> bool:
        return self.language == "sh" and CLUSTER.search(self.text) is not None

    @property
    def is_for_a_machine(self) -> bool:
        """``sh`` that no cluster is needed for, and the Python that README and docs have their reader try."""
        return not self.is_for_a_cluster and (
            self.language == "sh" or (self.language == "python" and self.page.parent in (ROOT, ROOT / "docs"))
        )


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["language"], found["text"])
        for found in FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """The page without its fenced blocks and inline code."""
    return CODE.sub("", FENCE.sub("", page.read_text()))


def code_in_prose(page: Path) -> list[str]:
    return CODE.findall(FENCE.sub("", page.read_text()))


def links(page: Path) -> list[str]:
    text = prose(page)
    return LINK.findall(text) + IMAGE.findall(text)


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-"))
    return found
