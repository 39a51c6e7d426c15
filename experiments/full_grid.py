"""Run a whole study: the embedded demo without arguments, any other with `--study`."""

import sys

from orchestrator.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
