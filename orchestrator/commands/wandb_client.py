"""W&B's client for commands: errors are one line, and nothing prompts for a login."""

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
"""Seconds to wait for the first answer of W&B's server, and for its client to end."""


@contextmanager
def wandb_client(*, offline: bool = False) -> Iterator[Any]:
    """Yield the module `wandb`, logged in unless offline.

    Raises:
        UserError: There is no key, or W&B does not answer or refuses.
    """
    import wandb  # Takes half a second, which other commands save.

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
        # Nothing is left to send, but if the server is lost meanwhile, this may never return.
        ending = Thread(target=wandb.teardown, daemon=True)
        ending.start()
        ending.join(ANSWER_SECONDS)


def project_path(text: str) -> tuple[str, str]:
    """Return entity and project of `ENTITY/PROJECT`.

    Raises:
        UserError: The text has another form.
    """
    parts = text.split("/")
    if len(parts) != 2 or not all(parts):
        raise UserError(f"the W&B project is {text!r}, but must be ENTITY/PROJECT")
    return parts[0], parts[1]


def _require_answer(url: str) -> None:
    """Make sure that a server answers, because W&B's client retries for minutes or hangs.

    Any answer counts, even a refusal or an untrusted certificate: the client explains those.

    Raises:
        UserError: There is none.
    """
    try:
        # W&B's settings accept only http and https URLs.
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
