"""W&B's own client, for commands: what goes wrong is one line, and nothing asks for a login."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.errors import UserError


@contextmanager
def wandb_client(*, offline: bool = False) -> Iterator[Any]:
    """Yield the module `wandb`, logged in unless it is to work offline.

    Raises:
        UserError: There is no key, or W&B does not answer or refuses.
    """
    import wandb  # For half a second, which other commands are not to wait.

    wandb.setup(wandb.Settings(silent=True))
    try:
        if not (offline or wandb.login(prompt=False, verify=True)):
            raise UserError("W&B has no key: set WANDB_API_KEY, or type: wandb login")
        yield wandb
    except UserError:
        raise
    except (wandb.Error, ValueError, OSError) as error:
        raise UserError(f"W&B: {_first_line(error)}") from error
    finally:
        wandb.teardown()


def project_path(text: str) -> tuple[str, str]:
    """Return entity and project of `ENTITY/PROJECT`.

    Raises:
        UserError: It is something else.
    """
    parts = text.split("/")
    if len(parts) != 2 or not all(parts):
        raise UserError(f"the W&B project is {text!r}, but must be ENTITY/PROJECT")
    return parts[0], parts[1]


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    key = os.environ.get("WANDB_API_KEY")
    return line.replace(key, "...") if key else line
