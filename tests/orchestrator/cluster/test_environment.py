"""What Tune sends its trials of the driver's environment."""

import importlib

import pytest
from ray.tune.execution import class_cache

from orchestrator.cluster.environment import send_no_environment, withhold_credentials
from trainables.trainable import FinetuneTrainable


@pytest.fixture(autouse=True)
def as_ray_has_it(monkeypatch):
    """Undo what was done to Ray's module, before and after a test."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "hidden")
    importlib.reload(class_cache)
    yield
    importlib.reload(class_cache)


def sent():
    cache = class_cache._ActorClassCache()
    return cache.get(FinetuneTrainable)._default_options["runtime_env"].get("env_vars", {})


def test_trials_are_not_sent_credentials():
    assert "hidden" in sent().values(), "Tune has another way to send variables"
    withhold_credentials()
    assert "PL_DISABLE_FORK" in sent()
    assert "hidden" not in sent().values()


def test_trials_on_an_embedded_ray_are_sent_nothing():
    assert sent()
    send_no_environment()
    assert sent() == {}
