"""A part in a process of its own, with a limit of time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.gpu_proof.findings import BEGUN, PartResult, read
from experiments.gpu_proof.one_part import LACKS
from experiments.gpu_proof.parts import PACKAGE, Part
from experiments.gpu_proof.workplace import ROOT

LOOKS_EVERY = 1.0
"""Seconds after which new findings are noted."""

Note = Callable[[PartResult], None]


@dataclass(frozen=True)
class PartRun:
    """A run of a part."""

    part: Part
    device: str
    folder: Path
    """Where its findings and its output go."""

    def watched(self, note: Note) -> PartResult:
        """Run it; `note` what it has found whenever that is more, and return it at the end."""
        result = PartResult(
            part=self.part.name,
            proves=self.part.proves,
            ended=BEGUN,
            seconds=0,
            limit=self.part.seconds,
            findings=[],
        )
        note(result)
        self._findings.unlink(missing_ok=True)
        began = time.monotonic()
        with self._process() as process:
            while process.poll() is None and time.monotonic() - began < self.part.seconds:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(min(LOOKS_EVERY, self.part.seconds))
                if len(found := read(self._findings)) > len(result.findings):
                    result = replace(result, findings=found, seconds=time.monotonic() - began)
                    note(result)
            ended = self._ending(process.poll())
        seconds = time.monotonic() - began
        result = replace(result, ended=ended, seconds=seconds, findings=read(self._findings))
        note(result)
        return result

    @property
    def _findings(self) -> Path:
        return self._file("jsonl")

    def _file(self, kind: str) -> Path:
        return self.folder / f"{self.part.name.replace(' ', '_')}.{kind}"

    @contextmanager
    def _process(self) -> Iterator[subprocess.Popen[bytes]]:
        """Start it; end it with all that it started, however the context is left."""
        module = self.part.module if "." in self.part.module else f"{PACKAGE}.{self.part.module}"
        command = [sys.executable, "-m", f"{PACKAGE}.one_part", module, self.part.job, self.device]
        path = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        with self._file("log").open("w") as log:
            process = subprocess.Popen(  # noqa: S603 - It is this package's own.
                [*command, str(self._findings.absolute())],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path)} | self._interpreting(),
                start_new_session=True,
            )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _interpreting(self) -> dict[str, str]:
        """Return what has a rehearsal interpret kernels: Triton asks for it when it is imported."""
        return {"TRITON_INTERPRET": "1"} if self.device == "cpu" else {}

    def _ending(self, status: int | None) -> str:
        """Return how it ended, by its status and what it printed last."""
        if status is None:
            return f"cut off after {self.part.seconds:.0f} s"
        if status == 0:
            return "whole"
        log = self._file("log")
        last = log.read_text(errors="replace").strip().rpartition("\n")[2].strip()
        if status == LACKS:
            return f"not run: {last} is not installed"
        return f"broke off: {last[:200]}; see {log.name}"
