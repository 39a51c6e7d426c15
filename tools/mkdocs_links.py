"""Hook of MkDocs: the site has no page for files outside `docs/`, so links to them become text."""

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_page_markdown(markdown: str, **unused: Any) -> str:
    """Replace links that leave `docs/` by their text."""
    return OUTSIDE.sub(r"\1", markdown)
