"""The tests that need a CUDA device, or run on every device there is, each result as it comes."""

import os
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from experiments.gpu_proof.findings import Finding
from experiments.gpu_proof.workplace import ROOT, TESTS, Workplace, import_tests

FILES = {
    "plain": [
        "reduction/test_cuda.py",
        "trainables/test_cuda.py",
        "trainables/data/test_normalisation.py",
        "trainables/loop/test_device_batches.py",
    ],
    "compiled": ["reduction/test_cuda.py"],
}
CHOSEN = {"plain": "not compiles", "compiled": "compiles"}
REHEARSED = "trainables/data/test_normalisation.py"
"""Those of CUDA are not collected on a CPU."""


def prove(place: Workplace, job: str) -> Iterator[Finding]:
    """Run the tests in a thread, and hand on what each of them comes to."""
    import_tests()
    files = [REHEARSED] if place.rehearses else FILES[job]
    chosen = "three_tensors" if place.rehearses else CHOSEN[job]
    reporter = _Reporter()
    arguments = [*(str(TESTS / file) for file in files), "-k", chosen, *_without_settings()]

    def run() -> None:
        reporter.ended(int(pytest.main(arguments, plugins=[reporter])))

    threading.Thread(target=run, daemon=True).start()
    yield from iter(reporter.found.get, None)
    if reporter.status not in (0, 1):
        raise RuntimeError(f"pytest ended with status {reporter.status}")


def _without_settings() -> list[str]:
    """Return options that need no plug-in of pytest, where this project's settings do."""
    return ["-c", os.devnull, "--rootdir", str(ROOT), "--import-mode=importlib", "-q",
            "-p", "no:cacheprovider"]  # fmt: skip


class _Reporter:
    """A plug-in of pytest."""

    def __init__(self) -> None:
        self.found: queue.SimpleQueue[Finding | None] = queue.SimpleQueue()
        self.status = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a test that passed, and a step of one that did not."""
        if report.skipped or (report.passed and report.when != "call"):
            return
        found = f"{report.duration:.1f} s"
        if report.failed:
            found = str(report.longrepr).strip().splitlines()[-1][:200]
        self.found.put(Finding(what=report.nodeid, passed=report.passed, found=found))

    def ended(self, status: int) -> None:
        """Note that no more will come."""
        self.status = status
        self.found.put(None)
