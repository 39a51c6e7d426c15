"""What Tune gives its trials does not hold what opens a store."""

from ray.tune.execution.class_cache import _ActorClassCache

from orchestrator.cluster.credentials import withhold_credentials
from trainables.trainable import FinetuneTrainable


def test_trials_are_not_sent_credentials(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "hidden")
    withhold_credentials()
    sent = _ActorClassCache().get(FinetuneTrainable)._default_options["runtime_env"]
    assert "PL_DISABLE_FORK" in sent["env_vars"], "Tune has another way to send variables"
    assert "hidden" not in str(sent)
