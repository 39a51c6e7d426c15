"""Measurements in a storage: found again by what was measured, where, and with which versions."""

import json

import pytest
from made_cells import CELL

from orchestrator.store import measurements
from orchestrator.store.measurements import Measurements
from trainables.measuring.configuration import Configuration
from trainables.storage.paths import store_path

CPU = {"device": "EPYC, 2 threads", "device_type": "cpu", "threads": 2}
GPU = {"device": "H200", "device_type": "cuda", "threads": 1}
RECORD = {"speed_up": [1.0, 2.0, 3.0], "disturbed": False}


@pytest.fixture
def folder(tmp_path):
    return store_path(str(tmp_path / "speed"))


@pytest.fixture
def configuration():
    return Configuration.of(CELL, None, "auto", compiled=False)


def add(folder, configuration, device=CPU, batch_size=32, by_study=True):
    Measurements(folder).add(configuration, device, batch_size, RECORD, by_study=by_study)


def test_what_was_measured_is_found_again(folder, configuration):
    add(folder, configuration, batch_size=32)
    add(folder, configuration, batch_size=1)
    (found,) = Measurements(folder).of(configuration)
    assert found.key == configuration.key
    assert found.device.items() >= CPU.items()
    assert list(found.batch_sizes) == [1, 32]
    assert found.batch_sizes[32] == RECORD | {"by_study": True}


def test_every_device_has_a_record_of_its_own(folder, configuration):
    add(folder, configuration, CPU)
    add(folder, configuration, GPU)
    assert {each.device["device"] for each in Measurements(folder).of(configuration)} == {
        "EPYC, 2 threads",
        "H200",
    }
    on_gpu = Measurements(folder).on(configuration, GPU)
    assert on_gpu is not None
    assert on_gpu.device["device"] == "H200"
    assert Measurements(folder).on(configuration, GPU | {"threads": 3}) is None


def test_other_configurations_and_versions_are_others(folder, configuration, monkeypatch):
    add(folder, configuration)
    other = Configuration.of(CELL, 0.25, "auto", compiled=False)
    assert Measurements(folder).of(other) == []
    monkeypatch.setattr(measurements, "version", lambda _: "9.9")
    assert Measurements(folder).of(configuration) == []
    assert Measurements(folder).on(configuration, CPU) is None


def test_it_is_known_who_measured(folder, configuration):
    add(folder, configuration, batch_size=1, by_study=False)
    add(folder, configuration, batch_size=32, by_study=True)
    (found,) = Measurements(folder).of(configuration)
    assert [found.has(size, by_study=True) for size in (1, 32, 64)] == [False, True, False]
    assert [found.has(size, by_study=False) for size in (1, 32, 64)] == [True, True, False]


def test_what_is_damaged_is_measured_again(folder, configuration):
    add(folder, configuration, batch_size=1)
    (path,) = folder.glob("*.json")
    content = json.loads(path.read_text())
    content["batch_sizes"]["1"]["speed_up"] = [9, 9, 9]
    path.write_text(json.dumps(content))
    assert Measurements(folder).of(configuration) == []
    add(folder, configuration, batch_size=32)
    (found,) = Measurements(folder).of(configuration)
    assert list(found.batch_sizes) == [32]
