"""Tells whether two processes run the same code of this project.

Ray's processes on another machine, or in a folder with packages of the same names, may not.
`orchestrator.cluster.same_code` sends these functions to processes that may lack them.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("analysis", "orchestrator", "reduction", "trainables")


def code_digest() -> str:
    """Return the SHA-256 of the sources that imports in this process find; it imports none."""
    sources = hashlib.sha256()
    for package in PACKAGES:
        if (folder := _folder(package)) is None:
            continue
        for file in sorted(folder.rglob("*.py")):
            text = file.read_bytes()
            sources.update(f"{package}/{file.relative_to(folder)} {len(text)}\n".encode() + text)
    return sources.hexdigest()


def code_folders() -> list[str]:
    """Return where the sources are, each folder once."""
    folders = filter(None, map(_folder, PACKAGES))
    return list(dict.fromkeys(str(folder.parent) for folder in folders))


def differing_code(expected: str) -> str | None:
    """Return in words where this process finds other code than that of a digest, else None."""
    if code_digest() == expected:
        return None
    return f"other code of tokensweep in {', '.join(code_folders()) or 'no folder'}"


def _folder(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None
