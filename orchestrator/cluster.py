"""Where a study runs: a given Ray cluster, the one this machine belongs to, or an embedded Ray."""

import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from orchestrator.errors import UserError

RAY_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Future behaviour of Ray, chosen now: it also silences a warning.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # The study's own handler saves every running cell first.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A custom search algorithm would get one pending trial, and slots would idle between trials.
    "TUNE_MAX_PENDING_TRIALS_PG": "4",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
OBJECT_STORE_BYTES = 256 * 2**20
"""Tasks pass small values: cells and rows; the rest goes through the store."""


@dataclass(frozen=True)
class Cluster:
    """What the study has to run on."""

    where: str
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.where} ({self.cpus:g} CPUs, {self.gpus:g} GPUs)"


@contextmanager
def connected(address: str | None, *, verbose: bool) -> Iterator[Cluster]:
    """Connect to Ray and let go of it at the end.

    Args:
        address: `auto`, `HOST:PORT`, or None to look at `RAY_ADDRESS`, then for a live cluster
            of this machine, else to start Ray embedded in this process.
        verbose: Let Ray's own messages through.

    Raises:
        UserError: Nothing answers at the address given.
    """
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray  # Takes a second, and reads the settings above.

    given = _given_address(address or os.environ.get("RAY_ADDRESS"))
    _silence(ray, verbose=verbose)
    scratch = Path(tempfile.mkdtemp(prefix="ray-"))  # Short: Ray puts sockets below it.
    quiet = {"log_to_driver": verbose, "logging_level": "INFO" if verbose else "ERROR"}
    try:
        if given:
            ray.init(address=given, **quiet)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                # Elsewhere than a cluster's: no other study should take this Ray for one.
                _temp_dir=str(scratch),
                **quiet,
            )
        total = ray.cluster_resources()
        where = f"the Ray cluster at {given}" if given else "this machine"
        yield Cluster(where, total.get("CPU", 0.0), total.get("GPU", 0.0))
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _given_address(address: str | None) -> str | None:
    """Return the address of the cluster to use, None to start Ray in this process.

    Raises:
        UserError: Nothing answers there. Ray itself would try for a quarter of an hour.
    """
    trace = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"  # noqa: S108
    live = trace.read_text().strip() if trace.is_file() else None
    if address in (None, "auto"):
        if live and _answers(live):
            return live
        if address:
            raise UserError("--address is 'auto', but this machine belongs to no Ray cluster")
        if live:
            sys.stderr.write(f"ignoring {trace}: the Ray cluster it names ({live}) is gone\n")
        return None
    if not address.startswith("ray://") and not _answers(address):
        raise UserError(f"no Ray cluster answers at {address!r}; it must be `auto` or HOST:PORT")
    return address


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True


def _silence(ray: ModuleType, *, verbose: bool) -> None:
    """Keep traces of failed trials and tasks off the console: `error.txt` has them."""
    logging.getLogger("ray.tune").setLevel(logging.INFO if verbose else logging.CRITICAL)
    # Errors of tasks are printed even with `log_to_driver=False`; Ray has no public switch.
    ray._private.worker._worker_logs_enabled = verbose
