"""Prove on a GPU, in one call, what only a GPU can show.

    make gpu-proof
    python -m experiments.gpu_proof --parts reference eager

Parts run in the order of their worth, each in a process of its own within a time limit of its own.
Results are written as they come, so that a call that is cut off leaves what it has found so far.
What is not installed is named, and only the parts that need it are left out. Without a GPU the
same parts run on the CPU at toy size, and say so: a rehearsal.

Writes `gpu_proof.json` and `gpu_proof.md` into the output folder, and each part's output as a log.
Status 1: something is not as it must be.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.gpu_proof.findings import Finding, Machine, PartResult, write
from experiments.gpu_proof.machine import look
from experiments.gpu_proof.parts import PARTS
from experiments.gpu_proof.running import PartRun

PATIENCE = 10
"""How many times as long a rehearsal may take: its machine may be busy."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    machine = look(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    print(_opening(machine), flush=True)
    results = _earlier(options.out, machine)
    for part in (part for part in PARTS if part.name in options.parts):

        def note(result: PartResult) -> None:
            results[result.part] = result
            write(options.out, machine, [results[p.name] for p in PARTS if p.name in results])

        patient = replace(part, seconds=part.seconds * (PATIENCE if machine.rehearses else 1))
        _tell(PartRun(patient, machine.device, options.out).watched(note), machine)
    print(f"wrote gpu_proof.json and gpu_proof.md into {options.out}")
    sys.exit(any(results[name].failed for name in options.parts))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    add = parser.add_argument
    add("--device", choices=["cuda", "cpu"], help="default: cuda where there is a GPU")
    add("--parts", nargs="+", default=names, choices=names, metavar="PART", help=", ".join(names))
    add("--out", type=Path, default=Path("runs/gpu_proof"), help="folder of results")
    return parser.parse_args(arguments)


def _earlier(folder: Path, machine: Machine) -> dict[str, PartResult]:
    """Return what an earlier call found at the same commit on such a machine, by part."""
    path = folder / "gpu_proof.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    known = record.get("machine", {})
    if any(known.get(key) != getattr(machine, key) for key in ("device", "name", "commit")):
        return {}
    results = [
        PartResult(**{**part, "findings": [Finding(**each) for each in part["findings"]]})
        for part in record["parts"]
    ]
    return {result.part: result for result in results}


def _opening(machine: Machine) -> str:
    kind = "a rehearsal on the CPU" if machine.rehearses else machine.name
    lacks = f"; not installed: {', '.join(machine.missing)}" if machine.missing else ""
    return f"gpu-proof: {kind}{lacks}"


def _tell(result: PartResult, machine: Machine) -> None:
    wrong = [finding for finding in result.findings if finding.passed is False]
    counted = f"{len(result.findings)} findings, {len(wrong)} of them wrong"
    print(f"{result.part}: {result.ended}, {result.seconds:.0f} s, {counted}", flush=True)
    for finding in wrong:
        print(f"  {machine.outcome(finding)}: {finding.what}: {finding.found}", flush=True)


if __name__ == "__main__":
    main()
