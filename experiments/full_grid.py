"""Run a whole study: the embedded demo without arguments, any other with `--study`."""

import sys
from pathlib import Path

# So that a checkout works without being installed.
sys.path.insert(0, str(Path(__file__).parents[1]))

from orchestrator.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
