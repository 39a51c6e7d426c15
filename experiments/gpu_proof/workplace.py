"""Where a part runs, and at what size."""

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"


@dataclass(frozen=True)
class Workplace:
    """The device that a part runs on."""

    device: str
    """`cuda`, or `cpu` for a rehearsal."""

    @property
    def rehearses(self) -> bool:
        """Whether everything is to be of toy size."""
        return self.device == "cpu"


def import_tests() -> None:
    """Let helpers in the tests' folder be imported; they need no test runner."""
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
