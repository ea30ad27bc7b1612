"""mkdocs: links that leave ``docs/`` (to source files, the README, the chart) have no page on the site; there
only their text stays. On GitHub, and in an editor, they work as they are."""

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!images|decisions)[^)]*\)")
FROM_DECISIONS = re.compile(r"\[([^\]]+)\]\((?:\.\./){2,}[^)]*\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called for each page. In ``decisions/`` one step up is still within the site."""
    return (FROM_DECISIONS if page.file.src_uri.startswith("decisions/") else OUTSIDE).sub(r"\1", markdown)
