"""`python -m orchestrator` is `tokensweep`."""

from orchestrator.cli import main

main()
