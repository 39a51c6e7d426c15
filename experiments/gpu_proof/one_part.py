"""Run one part in this process and write its findings as they come.

python -m experiments.gpu_proof.one_part MODULE JOB DEVICE FILE
"""

import sys
from importlib import import_module
from pathlib import Path

from experiments.gpu_proof.findings import append
from experiments.gpu_proof.workplace import ROOT, Workplace

LACKS = 3
"""Exit status where a package is not installed; the last line of stdout names it."""


def main(module: str, job: str, device: str, file: str) -> None:
    """Do the `job` of a module on a device; see above."""
    try:
        part = import_module(module)
        for finding in part.prove(Workplace(device), job):
            append(Path(file), finding)
    except ModuleNotFoundError as error:
        if error.name is None or (ROOT / error.name.split(".")[0]).exists():
            raise
        print(error.name.split(".")[0])
        sys.exit(LACKS)


if __name__ == "__main__":
    main(*sys.argv[1:])
