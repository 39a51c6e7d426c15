"""Whether and where W&B is asked for, by the variables that W&B itself reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from orchestrator.errors import not_one_of

MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline"}
OFF = "disabled"
PROJECT = "tokensweep"
TRUE = ("1", "true", "yes", "on")

DISCREET: dict[str, Any] = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "finish_timeout_raises": True,
    "silent": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
"""Settings under which W&B sees what is tracked, and neither the process nor its machine."""


@dataclass(frozen=True)
class WandbSettings:
    """Where runs go."""

    mode: str
    """`online` or `offline`."""
    project: str
    entity: str | None
    """None lets the server choose that of the key."""
    url: str
    folder: Path
    """Holds `wandb/`, where W&B keeps its runs."""
    tags: tuple[str, ...]
    """What the user wants on every run."""

    def __str__(self) -> str:
        owner = f"{self.entity}/" if self.entity else ""
        if self.mode == "online":
            return f"W&B: online, project {owner}{self.project} at {self.url}"
        return f"W&B: offline; send the runs with: wandb sync {self.folder / 'wandb'}"


def wandb_settings(environment: Mapping[str, str], folder: Path) -> WandbSettings | None:
    """Return what the variables ask for, None where they ask for nothing.

    They ask for it with `WANDB_MODE=online` or `offline`, or, where that is not set, with
    `WANDB_API_KEY`.

    Args:
        environment: The variables.
        folder: Where W&B keeps its runs unless `WANDB_DIR` says so.

    Raises:
        UserError: `WANDB_MODE` is none that there is.
    """
    given = environment.get("WANDB_MODE") or ("online" if environment.get("WANDB_API_KEY") else OFF)
    if given not in (*MODES, OFF):
        raise not_one_of("WANDB_MODE", given, (*MODES, OFF))
    if given == OFF or environment.get("WANDB_DISABLED", "").lower() in TRUE:
        return None
    return WandbSettings(
        mode=MODES[given],
        project=environment.get("WANDB_PROJECT") or PROJECT,
        entity=environment.get("WANDB_ENTITY") or None,
        url=_without_login(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai"),
        folder=Path(environment.get("WANDB_DIR") or folder).absolute(),
        tags=tuple(filter(None, environment.get("WANDB_TAGS", "").split(","))),
    )


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
