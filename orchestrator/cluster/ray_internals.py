"""Everything here that touches Ray's private names; `training.tune_internals` is the one for Tune.

Each function depends on names that a release may move. Where one is gone, the function does
nothing, `--verbose` logs what that costs, and the launch goes on.
"""

import logging
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import ray
import ray.job_config

P = ParamSpec("P")
T = TypeVar("T")

INSTALLED = ("site-packages", "dist-packages")
"""Names of the folders that Python installs packages in."""

_LOG = logging.getLogger(__name__)

PRIVATE_NAMES: list[str] = []
"""All that is touched, as dotted names: `tests/orchestrator/cluster/test_ray_internals.py`."""


def exists(name: str) -> bool:
    """Return whether this release of Ray has a dotted name."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def touches(*names: str, otherwise: str) -> Callable[[Callable[P, T]], Callable[P, T | None]]:
    """Let a function run only where Ray has all the private names that it touches.

    Args:
        names: Dotted names.
        otherwise: What to expect where one is missing; logged for `--verbose`.

    Returns:
        A decorator. The decorated function returns None where a name is missing.
    """
    PRIVATE_NAMES.extend(names)

    def decorate(function: Callable[P, T]) -> Callable[P, T | None]:
        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T | None:
            missing = [name for name in names if not exists(name)]
            if not missing:
                return function(*args, **kwargs)
            _LOG.info("Ray %s has no %s: %s", ray.__version__, ", ".join(missing), otherwise)
            return None

        return guarded

    return decorate


# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/_private/services.py#L815
# Public: `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0` sets the same, but only before Ray is imported, and
# every `ray start` would inherit it. `ray.init` has no argument for the address of its node.
@touches(
    "ray._private.ray_constants.ENABLE_RAY_CLUSTER",
    otherwise="the embedded Ray listens on all interfaces of this machine",
)
def stay_on_loopback() -> None:
    """Let a Ray that is started in this process listen on 127.0.0.1 alone.

    Its processes listen on all interfaces unless that is the address of their node. Ray itself
    uses it where it supports no clusters.
    """
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False


# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/_private/services.py#L1071
# Public: `ray start --block` in a session of its own, which takes seconds more; `ray.init` keeps
# its processes in the driver's group, where `timeout`, SLURM or a terminal signals them, too.
@touches(
    "ray._private.services.ConsolePopen",
    otherwise="a signal to the driver's process group ends Ray before cells have saved",
)
def shield_processes() -> None:
    """Start the processes of a Ray in this process in sessions of their own.

    The kernel ends them with this process all the same, however it ends; only Linux's does.
    """
    if sys.platform == "linux":
        apart = partial(subprocess.Popen, start_new_session=True)
        pkgutil.resolve_name("ray._private.services").ConsolePopen = apart


class _OwnCodeFirst(ray.job_config.JobConfig):
    """Lets processes of this job look for code where this project's is."""

    def _get_proto_job_config(self) -> Any:
        root = Path(__file__).resolve().parents[2]
        # Where it is installed, they find it by themselves: first, it would hide Python's own.
        self._py_driver_sys_path = [] if root.name in INSTALLED else [str(root)]
        return super()._get_proto_job_config()


# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/_private/worker.py#L2716
# Public: a `working_dir` in the runtime environment takes its place, but is uploaded and copied.
@touches(
    "ray.job_config.JobConfig._get_proto_job_config",
    otherwise="a `timm.py` in the working folder is imported instead of timm",
)
def own_code_first() -> ray.job_config.JobConfig:
    """Return a job's configuration under which the driver's working folder does not matter.

    Ray puts it first on the path on which its processes look for modules, Python's own included.
    """
    return _OwnCodeFirst()


# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/_private/worker.py#L2311
# Public: errors of tasks are printed even with `ray.init(log_to_driver=False)`.
@touches(
    "ray._private.worker._worker_logs_enabled",
    otherwise="errors of tasks are printed as well as stored",
)
def show_worker_logs(shown: bool) -> None:
    """Print or hide what Ray's workers write, errors of tasks included."""
    ray._private.worker._worker_logs_enabled = shown


# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/_private/worker.py#L1664
# Public: `RAY_TMPDIR` moves the folder, but every process that is started later inherits it.
def start_ray(scratch: Path, **options: Any) -> Any:
    """Start Ray in this process, with its sockets, logs and objects below `scratch`."""
    try:
        return ray.init(address="local", _temp_dir=str(scratch), **options)
    except RuntimeError as error:
        if "_temp_dir" not in str(error):
            raise
    _LOG.info("Ray %s takes no folder: set in its environment instead", ray.__version__)
    with _environment("RAY_TMPDIR", str(scratch)):
        return ray.init(address="local", **options)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/includes/gcs_client.pxi
# Public: `ray.nodes()` waits for a head that is silent, and has no name for a cluster.
@touches(
    "ray._raylet.GcsClient",
    otherwise="a head that comes back without its memory is noticed when its raylets end",
)
def cluster_id(address: str) -> str | None:
    """Return what distinguishes one life of a cluster from the next, None if its head is silent.

    Args:
        address: HOST:PORT of the head.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    try:
        return str(GcsClient(address=address).cluster_id.hex())
    except Exception:  # Of Ray's own or of gRPC, whatever went wrong.
        return None


# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/tune/execution/class_cache.py#L17
# Public: none. Tune copies these variables from the driver's environment into a runtime
# environment of every trial, and has no setting for which.
@touches(
    "ray.tune.execution.class_cache.ENV_VARS_TO_PROPAGATE",
    otherwise="Tune may copy the driver's AWS credentials into its runtime environments",
)
def withhold_credentials() -> None:
    """Let Tune send no credentials: they stay in the environment of each node's processes.

    They would travel as a runtime environment, which Ray writes to its logs and its state.
    """
    sent = pkgutil.resolve_name("ray.tune.execution.class_cache").ENV_VARS_TO_PROPAGATE
    for name in list(sent):
        if name.startswith("AWS_"):
            sent.remove(name)


# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/tune/execution/class_cache.py#L58
# Public: none, as above.
@touches(
    "ray.tune.execution.class_cache.DEFAULT_ENV_VARS",
    "ray.tune.execution.class_cache.ENV_VARS_TO_PROPAGATE",
    otherwise="cells wait for processes of their own, although idle ones exist",
)
def send_no_environment() -> None:
    """Let Tune send nothing to an embedded Ray: its processes inherit all from this one.

    A trial with an environment of its own gets a process of its own: those that Ray has started
    in advance would stay idle.
    """
    class_cache = pkgutil.resolve_name("ray.tune.execution.class_cache")
    class_cache.DEFAULT_ENV_VARS.clear()
    class_cache.ENV_VARS_TO_PROPAGATE.clear()
