"""Which code made a result: package versions and the commit, as `study.yaml` records them."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "torchvision", "timm", "ray", "numpy", "scipy", "scikit-learn")


def provenance() -> dict[str, object]:
    """Return the Python and package versions and the git commit, None outside a checkout."""
    versions = {name: version(name) for name in PACKAGES}
    python = ".".join(map(str, sys.version_info[:3]))
    return {"versions": {"python": python, **versions}, "git_commit": _commit()}


def _commit() -> str | None:
    """Return the commit of this project's own checkout, none of a repository that it lies in."""
    checkout = Path(__file__).resolve().parents[1]
    top = _git(checkout, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != checkout:
        return None
    return _git(checkout, "describe", "--always", "--dirty", "--abbrev=40")


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints about a folder; None where it fails or is not installed."""
    try:
        completed = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return completed.stdout.strip() or None
