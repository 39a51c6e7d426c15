"""What Tune sends its trials of this process's environment; Ray has no public switch."""

from ray.tune.execution import class_cache


def withhold_credentials() -> None:
    """Let Tune send no credentials: they stay in the environment of each node's processes.

    They would travel as a runtime environment, which Ray writes to its logs and its state.
    """
    for name in list(class_cache.ENV_VARS_TO_PROPAGATE):
        if name.startswith("AWS_"):
            class_cache.ENV_VARS_TO_PROPAGATE.remove(name)


def send_no_environment() -> None:
    """Let Tune send nothing, where a Ray is embedded: its processes inherit all from this one.

    What brings an environment along is run in processes of its own: those that Ray has started in
    advance would stand idle, and others be started.
    """
    class_cache.DEFAULT_ENV_VARS.clear()
    class_cache.ENV_VARS_TO_PROPAGATE.clear()
