"""W&B is off unless its own variables ask for it."""

from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.watching.wandb_tracker import wandb_settings

STORE = Path("/store")


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, None),
        ({"WANDB_PROJECT": "p", "WANDB_BASE_URL": "http://host"}, None),
        ({"WANDB_MODE": "disabled", "WANDB_API_KEY": "k"}, None),
        ({"WANDB_DISABLED": "true", "WANDB_API_KEY": "k"}, None),
        ({"WANDB_MODE": "", "WANDB_API_KEY": ""}, None),
        ({"WANDB_API_KEY": "k"}, "online"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_MODE": "dryrun", "WANDB_API_KEY": "k"}, "offline"),
    ],
)
def test_the_mode_follows_the_variables(environment, mode):
    settings = wandb_settings(environment, STORE)
    assert (settings and settings.mode) == mode


def test_an_unknown_mode_is_one_clear_line():
    with pytest.raises(UserError, match=r"^WANDB_MODE is 'onlin', but must be one of: disabled, "):
        wandb_settings({"WANDB_MODE": "onlin"}, STORE)


def test_what_is_not_given_has_defaults():
    settings = wandb_settings({"WANDB_MODE": "online"}, STORE)
    assert (settings.project, settings.entity, settings.tags) == ("tokensweep", None, ())
    assert (settings.url, settings.folder) == ("https://api.wandb.ai", STORE)
    assert str(settings) == "W&B: online, project tokensweep at https://api.wandb.ai"


def test_the_line_for_the_user_says_where_and_shows_no_login():
    given = {
        "WANDB_MODE": "online",
        "WANDB_PROJECT": "p",
        "WANDB_ENTITY": "team",
        "WANDB_BASE_URL": "https://name:secret@host:8080/base",
        "WANDB_DIR": "/scratch",
        "WANDB_TAGS": "a,b",
    }
    settings = wandb_settings(given, STORE)
    assert str(settings) == "W&B: online, project team/p at https://host:8080/base"
    assert settings.tags == ("a", "b")
    offline = wandb_settings(given | {"WANDB_MODE": "offline"}, STORE)
    assert str(offline) == "W&B: offline; send the runs with: wandb sync /scratch/wandb"
