"""W&B's own client, for commands: what goes wrong is one line, and nothing asks for a login."""

import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from orchestrator.errors import UserError

ANSWER_SECONDS = 10.0
"""How long to wait for the first answer of W&B's server, and for its client to end."""


@contextmanager
def wandb_client(*, offline: bool = False) -> Iterator[Any]:
    """Yield the module `wandb`, logged in unless it is to work offline.

    Raises:
        UserError: There is no key, or W&B does not answer or refuses.
    """
    import wandb  # For half a second, which other commands are not to wait.

    settings = wandb.setup(wandb.Settings(silent=True)).settings
    try:
        if not offline:
            _require_answer(settings.base_url)
        if not (offline or wandb.login(prompt=False, verify=True)):
            raise UserError("W&B has no key: set WANDB_API_KEY, or type: wandb login")
        yield wandb
    except UserError:
        raise
    except (wandb.Error, ValueError, OSError) as error:
        raise UserError(f"W&B: {_first_line(error)}") from error
    finally:
        # It has nothing left to send, but where a server is lost on the way it may never end.
        ending = Thread(target=wandb.teardown, daemon=True)
        ending.start()
        ending.join(ANSWER_SECONDS)


def project_path(text: str) -> tuple[str, str]:
    """Return entity and project of `ENTITY/PROJECT`.

    Raises:
        UserError: It is something else.
    """
    parts = text.split("/")
    if len(parts) != 2 or not all(parts):
        raise UserError(f"the W&B project is {text!r}, but must be ENTITY/PROJECT")
    return parts[0], parts[1]


def _require_answer(url: str) -> None:
    """Ask whether anyone listens, for W&B's client tries for minutes, and may not end by itself.

    Any answer will do, one that is refused or not trusted, too: the client can tell more of it.

    Raises:
        UserError: There is none.
    """
    try:
        # W&B's settings have made sure that the URL is one of http or https.
        urllib.request.urlopen(url, timeout=ANSWER_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError as answer:
        answer.close()
    except OSError as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):
            raise UserError(f"W&B: no answer from {url}: {reason}") from error


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    key = os.environ.get("WANDB_API_KEY")
    return line.replace(key, "...") if key else line
