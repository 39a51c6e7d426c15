"""Where a study runs: a given Ray cluster, the one this machine belongs to, or an embedded Ray.

Ray reads its settings as it is imported, so nothing here imports it.
"""

import os
import secrets
import socket
import sys
from pathlib import Path

from orchestrator.errors import UserError

RAY_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # The future default, chosen now because that silences a warning.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune would save all trials every few seconds, for a restore that no launch does.
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",
    # The study's own handler saves every running cell first.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Tune lets a custom search algorithm have one pending trial, so that a large cluster would fill
    # slowly, one start of a process after the other. `ReleaseOrder` decides how many are released.
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

LOOPBACK = "127.0.0.1"


def prepare_ray(address: str | None) -> str | None:
    """Choose where the study runs and set Ray up for it; Ray must not have been imported yet.

    Args:
        address: `auto`, `local`, `HOST:PORT`, or None to use `RAY_ADDRESS`, then a live cluster
            of this machine.

    Returns:
        The cluster's address, or None where Ray is to be embedded in this process.

    Raises:
        UserError: Nothing answers at the address given, or it is that of a Ray Client server; or
            this machine cannot reach itself.
    """
    have_home()
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    chosen = _given_address(address or os.environ.get("RAY_ADDRESS") or None)
    if chosen and _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if not chosen:
        _check_loopback()
    if not chosen and not _has_token() and not _can_keep_token():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # For this Ray alone.
    return chosen


def have_home() -> None:
    """Give a user whom the machine does not know the home that containers do: `/`.

    Libraries look for one as they are imported, and raise without.
    """
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"


def _given_address(address: str | None) -> str | None:
    """Return the address of the cluster to use, None to start Ray in this process.

    Raises:
        UserError: Nothing answers there. Ray itself would try for a quarter of an hour.
    """
    if address == "local":
        return None
    if address in (None, "auto"):
        return _this_machine_s_cluster(required=address == "auto")
    if address.startswith("ray://"):
        raise UserError(
            f"{address!r} is the address of a Ray Client server, through which no study runs; "
            "give HOST:PORT of the cluster's head (often HOST:6379), or submit the command there: "
            "ray job submit --address http://HOST:8265 -- tokensweep run ..."
        )
    if not answers(address):
        raise UserError(
            f"no Ray cluster answers at {address!r}; it must be `auto`, `local` or HOST:PORT"
        )
    return address


def _this_machine_s_cluster(*, required: bool) -> str | None:
    """Return the address of the live cluster that this machine belongs to, None without one.

    Raises:
        UserError: There is none, but it is required.
    """
    trace = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"  # noqa: S108
    try:
        noted = trace.read_text(errors="replace").strip()
    except OSError:  # There is none, or it is another user's.
        noted = ""
    if noted and answers(noted):
        return noted
    if required:
        raise UserError("--address is 'auto', but this machine belongs to no Ray cluster")
    if noted:
        sys.stderr.write(f"ignoring {trace}: the Ray cluster that it names ({noted}) is gone\n")
    return None


def _check_loopback() -> None:
    """Refuse a sandbox without a network of its own; Ray would try there for minutes."""
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            reached = answers(f"{LOOPBACK}:{server.getsockname()[1]}")
    except OSError:
        reached = False
    if not reached:
        raise UserError(
            f"Ray's processes talk to each other at {LOOPBACK}, which does not work here, as in a "
            "sandbox without a network; bring it up: ip link set lo up"
        )


def _has_token() -> bool:
    """Return whether this user has the token that clusters require by default since Ray 2.60."""
    file = os.environ.get("RAY_AUTH_TOKEN_PATH", os.path.join(_tokens(), "auth_token"))
    return "RAY_AUTH_TOKEN" in os.environ or os.access(file, os.R_OK)


def _can_keep_token() -> bool:
    """Return whether Ray can write a token, as it does when it is embedded and finds none.

    A user of a container may have no home, or that of somebody else.
    """
    folder = _tokens()
    return os.access(folder if os.path.isdir(folder) else os.path.dirname(folder), os.W_OK)


def _tokens() -> str:
    """Return the folder of Ray's tokens."""
    return os.path.expanduser("~/.ray")


def answers(address: str) -> bool:
    """Return whether something listens at `HOST:PORT`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True
