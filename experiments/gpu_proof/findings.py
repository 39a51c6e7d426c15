"""What a part of the proof finds, how that is called, and the files that hold it."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

REHEARSED = "rehearsed on the CPU"
BEGUN = "begun, not ended"
"""How a part stands until it has ended, also where the whole call is cut off."""
WARNING = (
    "**A rehearsal on the CPU, with models and images of toy size: nothing of it has run on a GPU, "
    "and its times say nothing.**"
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the proof."""

    what: str
    found: str
    """In words and numbers."""
    passed: bool | None = None
    """Whether it is as it must be; None for what is only measured."""
    ran: bool = True
    """False where it could not be looked at; `found` says why."""
    value: float | None = None
    """The number that matters, where there is one."""


@dataclass(frozen=True, kw_only=True)
class PartResult:
    """What came of a part."""

    part: str
    proves: str
    ended: str
    """`whole`; `begun, not ended`; or why not all of it is there."""
    seconds: float
    limit: float
    findings: list[Finding]

    @property
    def failed(self) -> bool:
        """Whether something is not as it must be."""
        broke = self.ended.startswith("broke off")
        return broke or any(finding.passed is False for finding in self.findings)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the proof runs."""

    device: str
    """`cuda` or `cpu`."""
    name: str
    """Of the GPU, or of the processor."""
    versions: dict[str, str]
    missing: list[str]
    """Packages that this project depends on and that are not installed."""
    commit: str
    began: str

    @property
    def rehearses(self) -> bool:
        """Whether this is no proof, but a rehearsal without a GPU."""
        return self.device == "cpu"

    def outcome(self, finding: Finding) -> str:
        """Return what a finding is called here."""
        if not finding.ran:
            return "not run"
        if finding.passed is False:
            return "FAILED in rehearsal" if self.rehearses else f"FAILED on {self.name}"
        if self.rehearses:
            return REHEARSED
        return f"{'measured' if finding.passed is None else 'passed'} on {self.name}"


def append(path: Path, finding: Finding) -> None:
    """Write a finding as a line of its own, at once."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(finding)) + "\n")


def read(path: Path) -> list[Finding]:
    """Return the findings of which whole lines are there."""
    if not path.exists():
        return []
    *whole, _ = path.read_text().split("\n")
    return [Finding(**json.loads(line)) for line in whole]


def write(folder: Path, machine: Machine, results: Sequence[PartResult]) -> None:
    """Write `gpu_proof.json` and `gpu_proof.md`, so that readers see the old or the new ones."""
    record = {"machine": asdict(machine), "parts": [asdict(result) for result in results]}
    _replace(folder / "gpu_proof.json", json.dumps(record, indent=1) + "\n")
    _replace(folder / "gpu_proof.md", "\n".join(page(machine, results)) + "\n")


def _replace(path: Path, text: str) -> None:
    beside = path.with_suffix(f"{path.suffix}.new")
    beside.write_text(text)
    os.replace(beside, path)


def page(machine: Machine, results: Sequence[PartResult]) -> Iterator[str]:
    """Yield the lines of the page: what it is, and one table of everything."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    kind = WARNING if machine.rehearses else f"**Run on {machine.name}.**"
    yield from (kind, "", f"{machine.name}; {versions}; commit {machine.commit}; {machine.began}.")
    if machine.missing:
        yield from ("", f"Not installed here: {', '.join(machine.missing)}.")
    yield from ("", "| part | what | outcome | found |", "|---|---|---|---|")
    for result in results:
        yield from _rows(machine, result)


def _rows(machine: Machine, result: PartResult) -> Iterator[str]:
    time = f"{result.seconds:.0f} s of at most {result.limit:.0f}"
    yield f"| **{result.part}** | {result.proves} | {_plain(result.ended)} | {time} |"
    for each in result.findings:
        cells = (result.part, each.what, machine.outcome(each), each.found)
        yield f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
