"""What the proof's results depend on."""

import json
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from experiments.gpu_proof.findings import Machine
from experiments.gpu_proof.workplace import ROOT

SHOWN = ("torch", "timm", "triton", "ray")

# In a process of its own: one that asks holds memory of the GPU from then on.
ASK = """
import json, torch
there = torch.cuda.is_available()
print(json.dumps(torch.cuda.get_device_name() if there else None))
"""


def look(device: str | None) -> Machine:
    """Return what there is here.

    Args:
        device: `cuda`, `cpu` for a rehearsal, or None for `cuda` where there is a GPU.

    Raises:
        SystemExit: torch or timm is not installed, or there is no GPU though it was asked for.
    """
    if lacking := [name for name in ("torch", "timm") if _version(name) is None]:
        sys.exit(f"not installed here: {' and '.join(lacking)}; the proof needs at least these")
    gpu = _gpu()
    device = device or ("cuda" if gpu else "cpu")
    if device == "cuda" and gpu is None:
        sys.exit("--device is 'cuda', but torch finds no GPU here; rehearse with: --device cpu")
    found = {name: _version(name) for name in SHOWN}
    return Machine(
        device=device,
        name=gpu if gpu and device == "cuda" else platform.machine(),
        versions={
            "Python": platform.python_version(),
            **{name: known for name, known in found.items() if known is not None},
        },
        missing=[name for name in _dependencies() if _version(name) is None],
        commit=_commit(),
        began=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _gpu() -> str | None:
    asked = subprocess.run([sys.executable, "-c", ASK], check=True, stdout=subprocess.PIPE)  # noqa: S603
    name: str | None = json.loads(asked.stdout)
    return name


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _dependencies() -> list[str]:
    """Return what this project depends on, and what its tests run with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tests = [name for name in project["optional-dependencies"]["dev"] if "pytest" in name]
    names = [re.split(r"[\[<>=~ ]", text)[0] for text in [*project["dependencies"], *tests]]
    return [*names, "hypothesis"]


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    asked = subprocess.run(  # noqa: S603
        [git, "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
        check=False,
        capture_output=True,
        text=True,
    )
    return asked.stdout.strip() or "unknown"
