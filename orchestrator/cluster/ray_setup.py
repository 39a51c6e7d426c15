"""Where a study runs: a given Ray cluster, the one this machine belongs to, or an embedded Ray.

Ray reads its settings as it is imported, so nothing here imports it.
"""

import os
import socket
import sys
from pathlib import Path

from orchestrator.errors import UserError

RAY_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Future behaviour of Ray, chosen now: it also silences a warning.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune would save all trials every few seconds, for a restore that no launch does.
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",
    # The study's own handler saves every running cell first.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A custom search algorithm would get one pending trial, and a cluster of many slots fill one
    # slow start of a process after the other. How many are released is up to `ReleaseOrder`.
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def prepare_ray(address: str | None) -> str | None:
    """Choose where the study runs and set Ray up for it; Ray must not have been imported yet.

    Args:
        address: `auto`, `HOST:PORT`, or None to look at `RAY_ADDRESS`, then for a live cluster
            of this machine.

    Returns:
        The cluster's address, or None where Ray is to be embedded in this process.

    Raises:
        UserError: Nothing answers at the address given.
    """
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    chosen = _given_address(address or os.environ.get("RAY_ADDRESS"))
    if chosen and _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    return chosen


def _given_address(address: str | None) -> str | None:
    """Return the address of the cluster to use, None to start Ray in this process.

    Raises:
        UserError: Nothing answers there. Ray itself would try for a quarter of an hour.
    """
    trace = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"  # noqa: S108
    live = trace.read_text().strip() if trace.is_file() else None
    if address in (None, "auto"):
        if live and answers(live):
            return live
        if address:
            raise UserError("--address is 'auto', but this machine belongs to no Ray cluster")
        if live:
            sys.stderr.write(f"ignoring {trace}: the Ray cluster it names ({live}) is gone\n")
        return None
    if not address.startswith("ray://") and not answers(address):
        raise UserError(f"no Ray cluster answers at {address!r}; it must be `auto` or HOST:PORT")
    return address


def _has_token() -> bool:
    """Tell whether this user has the token that clusters ask for by default since Ray 2.60."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    return "RAY_AUTH_TOKEN" in os.environ or file.is_file()


def answers(address: str) -> bool:
    """Tell whether something listens at `HOST:PORT`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True
