"""The command line of this process, to be typed again."""

import shlex
import sys
from pathlib import Path


def command_line(*options: str) -> str:
    """Return what started this process, with further options that it did not have."""
    python, here = Path(sys.executable), Path.cwd()
    shown = python.relative_to(here) if python.is_relative_to(here) else python
    further = [option for option in options if option not in sys.argv]
    return shlex.join([str(shown), *sys.argv, *further])
