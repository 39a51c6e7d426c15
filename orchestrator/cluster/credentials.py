"""Credentials stay where they are: in the environment of each node's processes."""

from ray.tune.execution import class_cache


def withhold_credentials() -> None:
    """Let Tune hand no credentials of this process to its trials; Ray has no public switch.

    They would travel as a runtime environment, which Ray writes to its logs and its state.
    """
    for name in list(class_cache.ENV_VARS_TO_PROPAGATE):
        if name.startswith("AWS_"):
            class_cache.ENV_VARS_TO_PROPAGATE.remove(name)
