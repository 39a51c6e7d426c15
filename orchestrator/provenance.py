"""Which code made a result: package versions and the commit, as `study.yaml` records them."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "timm", "ray", "numpy", "scipy", "scikit-learn")


def provenance() -> dict[str, Any]:
    """Return the Python and package versions and the git commit, None outside a checkout."""
    versions = {name: version(name) for name in PACKAGES}
    python = ".".join(map(str, sys.version_info[:3]))
    return {"versions": {"python": python, **versions}, "git_commit": _commit()}


def _commit() -> str | None:
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        completed = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return completed.stdout.strip() or None
