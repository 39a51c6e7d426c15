"""The commands besides `run`, a module each; `orchestrator/cli.py` lists them."""
