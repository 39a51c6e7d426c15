"""What is to be measured of a study's cells, and that the tables say what was."""

import os
import socket
import sys
from pathlib import Path

import pytest
import ray
from made_cells import CELL, finish

from analysis.tables import results_table
from orchestrator.results.cell_records import record_of
from orchestrator.results.measuring_tasks import WholeDevice, environment
from orchestrator.results.speed_jobs import (
    can_be_measured,
    jobs,
    speeds_are_current,
    update_speeds,
)
from orchestrator.results.table_store import fingerprint, publish_tables, read_tables
from orchestrator.store.measurements import Measurements
from orchestrator.store.store import Store
from trainables.measuring.configuration import Configuration
from trainables.measuring.settings import MeasureSettings
from trainables.storage.files import write_atomic

SETTINGS = MeasureSettings(batch_sizes=[1, 8])
ATS = CELL.model_copy(update={"method": "ats"})
SEED = CELL.model_copy(update={"seed": 1})
RATES = CELL.model_copy(update={"eval_keep_rates": (0.25,)})
DEVICE = {"device": "EPYC, 2 threads", "device_type": "cpu", "threads": 2}
RECORD = {
    "speed_up": [1.0, 2.0, 3.0],
    "images_per_second": [1.0, 2.0, 3.0],
    "latency_ms": [4.0, 5.0],
    "peak_memory_mb": 7.0,
    "disturbed": False,
}


@pytest.fixture
def study(tmp_path):
    """The store of a study with two seeds of a cell and one of `ats`."""
    store = Store(tmp_path / "study")
    store.create({"name": "study", "measure": SETTINGS.model_dump()}, [CELL, SEED, ATS])
    return store


def measured(store, cell, *batch_sizes, by_study=True):
    configuration = Configuration.of(cell, None, "auto", compiled=False)
    for size in batch_sizes:
        Measurements(store.measurements).add(configuration, DEVICE, size, RECORD, by_study=by_study)


def to_do(store, cells=(CELL, SEED, ATS), settings=SETTINGS):
    found = jobs(cells, settings, Measurements(store.measurements))
    return [(job.configuration.cell.method, job.batch_sizes) for job in found]


def test_cells_that_share_a_measurement_are_measured_once(study):
    assert to_do(study) == [("topk", (1, 8)), ("ats", (1, 8))]
    other_ats = ATS.model_copy(update={"seed": 1})
    assert len(to_do(study, [ATS, other_ats])) == 2


def test_every_rate_of_evaluation_is_measured(study):
    found = jobs([RATES], SETTINGS, Measurements(study.measurements))
    assert [job.configuration.cell.keep_rate for job in found] == [0.5, 0.25]


def test_what_a_launch_has_measured_is_done(study):
    measured(study, CELL, 8)
    assert to_do(study, [CELL, SEED]) == [("topk", (1,))]
    measured(study, SEED, 1)
    assert to_do(study, [CELL, SEED]) == []
    assert to_do(study, [CELL], MeasureSettings(batch_sizes=[8, 64])) == [("topk", (64,))]
    assert to_do(study, [CELL], MeasureSettings(precision="bf16")) == [("topk", (1, 32, 128))]


def test_what_was_measured_by_hand_is_measured_by_a_launch_too(study):
    measured(study, CELL, 1, 8, by_study=False)
    assert to_do(study, [CELL]) == [("topk", (1, 8))]


def test_where_images_decide_the_cell_has_to_be_trained(study):
    configuration = Configuration.of(ATS, None, "auto", compiled=False)
    assert not can_be_measured(study, configuration)
    finish(study.cell(ATS.id))
    assert can_be_measured(study, configuration)
    assert can_be_measured(study, Configuration.of(CELL, None, "auto", compiled=False))


def test_tables_say_what_was_measured(study):
    cells = [study.cell(cell_id) for cell_id in study.cell_ids()]
    publish_tables(study, {"results": results_table(map(record_of, cells))}, {"made": "from"})
    measured(study, CELL, 1, 8)
    update_speeds(study, cells)
    tables = read_tables(study)
    assert sorted(tables["speed"]["cell_id"]) == sorted([CELL.id, SEED.id] * 2)
    assert tables["speed"]["measurement"].nunique() == 1
    assert tables["results"]["speed_up"].tolist()[0] == 2.0
    assert tables["results"]["latency_ms"].tolist()[0] == 4.0
    assert tables["results"]["speed_up"].isna().tolist() == [False, False, True]


def test_speeds_are_current_until_a_cell_or_a_setting_changes(study):
    cells = [study.cell(cell_id) for cell_id in study.cell_ids()]
    assert not speeds_are_current(study, fingerprint(cells))
    update_speeds(study, cells)
    assert not speeds_are_current(study, fingerprint(cells)), "it was not complete"
    update_speeds(study, cells, complete=True)
    assert speeds_are_current(study, fingerprint(cells))
    finish(cells[0])
    assert not speeds_are_current(study, fingerprint(cells))
    update_speeds(study, cells, complete=True)
    text = (study.path / "study.yaml").read_text().replace("- 8", "- 16")
    write_atomic(study.path / "study.yaml", text.encode())
    assert not speeds_are_current(study, fingerprint(cells))


H200, A100 = ({f"accelerator_type:{name}": 1.0, "CPU": 8.0} for name in ("H200", "A100"))


@pytest.mark.parametrize(
    ("nodes", "options", "threads", "count"),
    [
        ([{"CPU": 4.0}], {"num_cpus": 4}, 4, 1),
        ([{"CPU": 2.0}, {"CPU": 8.0}, {"CPU": 8.0}, {}], {"num_cpus": 8}, 8, 2),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}], {"num_cpus": 1, "num_gpus": 1}, 1, 2),
        (
            [A100 | {"GPU": 2.0}, H200 | {"GPU": 4.0}, A100 | {"GPU": 1.0}],
            {"num_cpus": 1, "num_gpus": 1, "resources": {"accelerator_type:H200": 0.001}},
            1,
            4,
        ),
    ],
)
def test_a_measurement_has_a_whole_device(nodes, options, threads, count):
    device = WholeDevice.of(nodes)
    assert device.options == options
    assert (device.threads, device.count) == (threads, count)
    assert device.gpu == ("num_gpus" in options)


class TestEnvironment:
    """A virtual environment in a folder whose name a shell would cut in two."""

    @pytest.fixture
    def python(self, tmp_path, monkeypatch):
        folder = tmp_path / "of a study"
        folder.symlink_to(Path(sys.prefix))
        monkeypatch.setattr(sys, "executable", str(folder / "bin" / "python"))
        return sys.executable

    def test_a_path_with_a_space_is_quoted(self, python):
        assert environment([socket.gethostname()])["py_executable"] == f"'{python}'"

    def test_other_machines_have_a_python_of_their_own(self, python):
        assert "py_executable" not in environment([socket.gethostname(), "other"])

    def test_a_plain_path_is_left_to_ray(self, monkeypatch):
        monkeypatch.setattr(sys, "executable", "/venv/bin/python")
        assert environment([socket.gethostname()]) == {"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}}

    @pytest.mark.slow
    def test_a_process_starts_there(self, python):
        with ray.init(num_cpus=1, include_dashboard=False):
            look = ray.remote(lambda: (sys.executable, os.environ["OMP_WAIT_POLICY"]))
            hosts = [node["NodeManagerHostname"] for node in ray.nodes()]
            started = look.options(runtime_env=environment(hosts)).remote()
            assert ray.get(started, timeout=50) == (python, "PASSIVE")
