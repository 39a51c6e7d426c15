"""Private names of Ray and Tune: all are here, all exist, and none is indispensable."""

import importlib
import logging
import os
import re
from operator import attrgetter
from pathlib import Path

import pytest
import ray
from ray._private import services
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial

from orchestrator.cluster import ray_internals
from orchestrator.cluster.ray_internals import (
    PRIVATE_NAMES,
    exists,
    own_code_first,
    send_no_environment,
    shield_processes,
    show_worker_logs,
    start_ray,
    stay_on_loopback,
    touches,
    withhold_credentials,
)
from orchestrator.training.tune_internals import TRIAL_ATTRIBUTES, count_no_callbacks
from trainables.trial.trainable import FinetuneTrainable

ROOT = Path(__file__).parents[3]
PRIVATE_MODULE = re.compile(r"\bray(\.\w+)*\._\w+|\bfrom ray[\w.]* import .*\b_\w+|\.__class__ = ")


def test_this_release_of_ray_has_every_private_name_that_is_touched():
    trial = Trial("__fake", stub=True)
    missing = [name for name in PRIVATE_NAMES if not exists(name)]
    for name in TRIAL_ATTRIBUTES:
        try:
            hasattr(Trial, name) or attrgetter(name)(trial)
        except AttributeError:
            missing.append(f"Trial.{name}")
    assert missing == [], f"Ray {ray.__version__} has moved these: see where they are touched"
    assert len(PRIVATE_NAMES) + len(TRIAL_ATTRIBUTES) >= 13


def test_the_oldest_ray_that_is_tried_is_the_oldest_that_is_allowed():
    allowed = re.search(r"ray\[default,tune\]>=([\d.]+)", (ROOT / "pyproject.toml").read_text())
    tried = re.search(r"^RAY_OLDEST := ([\d.]+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert f"{tried[1]}.".startswith(f"{allowed[1]}.")


def test_no_other_module_touches_private_names_of_ray():
    sources = [*ROOT.glob("orchestrator/**/*.py"), *ROOT.glob("trainables/**/*.py")]
    touching = {file.name for file in sources if PRIVATE_MODULE.search(file.read_text())}
    assert touching == {"ray_internals.py", "tune_internals.py"}


def test_a_name_that_is_gone_costs_what_is_logged_and_no_launch(caplog):
    caplog.set_level(logging.INFO)

    @touches("ray._private.gone", "ray.gone.entirely", otherwise="all is slower")
    def fail():
        raise AssertionError("called without what it needs")

    del PRIVATE_NAMES[-2:]
    assert fail() is None
    (said,) = caplog.messages
    gone = "ray._private.gone, ray.gone.entirely"
    assert said == f"Ray {ray.__version__} has no {gone}: all is slower"


@pytest.mark.parametrize(
    "touch",
    [
        stay_on_loopback,
        lambda: show_worker_logs(False),
        lambda: ray_internals.cluster_id("127.0.0.1:1"),
        withhold_credentials,
        send_no_environment,
        shield_processes,
        own_code_first,
        count_no_callbacks,
    ],
)
def test_a_launch_goes_on_without_any_of_them(touch, monkeypatch):
    monkeypatch.setattr(ray_internals, "exists", lambda name: False)
    assert touch() is None


def test_processes_of_ray_are_out_of_reach_of_signals_to_the_group(monkeypatch):
    monkeypatch.setattr(services, "ConsolePopen", services.ConsolePopen)
    shield_processes()
    started = services.start_ray_process(["sleep", "60"], "test", fate_share=True).process
    try:
        assert os.getpgid(started.pid) == started.pid != os.getpgrp()
    finally:
        started.kill()
        started.wait()


@pytest.mark.parametrize("installed", [False, True])
def test_processes_look_for_code_where_it_is_and_not_in_the_working_folder(monkeypatch, installed):
    monkeypatch.setattr(ray_internals, "INSTALLED", (ROOT.name,) if installed else ())
    job = own_code_first()
    job._py_driver_sys_path.extend(["/script", "/working/folder"])  # As `ray.init` does.
    found = list(job._get_proto_job_config().py_driver_sys_path)
    assert found == ([] if installed else [str(ROOT)])


def test_a_ray_that_takes_no_folder_finds_it_in_its_environment(monkeypatch, tmp_path):
    started = []

    def init(**options):
        if "_temp_dir" in options:
            raise RuntimeError("Unknown keyword argument(s): _temp_dir")
        started.append((options, os.environ["RAY_TMPDIR"]))

    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("ray.init", init)
    start_ray(tmp_path, include_dashboard=False)
    assert started == [({"address": "local", "include_dashboard": False}, str(tmp_path))]
    assert "RAY_TMPDIR" not in os.environ


@pytest.fixture
def variables(monkeypatch):
    """Undo what was done to Ray's module, before and after a test."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "hidden")
    importlib.reload(class_cache)
    yield
    importlib.reload(class_cache)


def sent():
    cache = class_cache._ActorClassCache()
    return cache.get(FinetuneTrainable)._default_options["runtime_env"].get("env_vars", {})


def test_trials_are_not_sent_credentials(variables):
    assert "hidden" in sent().values(), "Tune has another way to send variables"
    withhold_credentials()
    assert "PL_DISABLE_FORK" in sent()
    assert "hidden" not in sent().values()


def test_trials_on_an_embedded_ray_are_sent_nothing(variables):
    assert sent()
    send_no_environment()
    assert sent() == {}
