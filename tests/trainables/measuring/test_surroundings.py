"""What else a machine does, on made-up statistics."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trainables.measuring import surroundings
from trainables.measuring.surroundings import Snapshot, Surroundings, device_facts

CPU = torch.device("cpu")
ALONE = Surroundings(load_before=0.1, load_after=1.0, other_cpus=0.05, gpu_users=None)


@pytest.fixture
def statistics(tmp_path, monkeypatch):
    """A made-up file of the node's times, in hundredths of a second."""
    file = tmp_path / "stat"
    file.write_text("cpu  100 20 3000 99999 88888 4 50 6000 0 0\ncpu0 1 2 3\n")
    monkeypatch.setattr(surroundings, "STATISTICS", file)
    monkeypatch.setattr(surroundings.os, "sysconf", lambda _: 100)
    return file


def test_busy_times_are_all_but_idle_and_waiting(statistics):
    assert Snapshot.now().busy == pytest.approx((100 + 20 + 3000 + 4 + 50 + 6000) / 100)


def test_others_have_what_is_not_our_own(monkeypatch):
    before, after = Snapshot(10, 0.5, 100, 7), Snapshot(14, 2.5, 112, 10)
    monkeypatch.setattr(Snapshot, "now", lambda: after)
    found = Surroundings.since(before, CPU)
    assert found == Surroundings(load_before=0.5, load_after=2.5, other_cpus=9 / 4, gpu_users=None)


def test_where_the_node_does_not_tell_that_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(surroundings, "STATISTICS", tmp_path / "missing")
    before = Snapshot.now()
    assert before.busy is None
    assert Surroundings.since(before, CPU).other_cpus is None


def disturbances(spread=0.02, threads=4, **changes):
    facts = {**ALONE.__dict__, **changes}
    return Surroundings(**facts).disturbances(spread, threads)


def test_nothing_disturbs_what_is_alone(monkeypatch):
    monkeypatch.setattr(surroundings.os, "cpu_count", lambda: 4)
    assert disturbances() == []
    assert disturbances(other_cpus=None) == []
    assert disturbances(gpu_users=0) == []
    assert disturbances(other_cpus=3, threads=1) == []  # One of four is left.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spread": 0.12}, ["the host's own rounds spread by 12%"]),
        ({"other_cpus": 0.5}, ["others took 0.5 of 4 CPUs"]),
        ({"other_cpus": 3.2, "threads": 1}, ["others took 3.2 of 4 CPUs"]),
        ({"gpu_users": 2}, ["processes of others on the GPU: 2"]),
    ],
)
def test_what_disturbs_is_said(monkeypatch, changes, said):
    monkeypatch.setattr(surroundings.os, "cpu_count", lambda: 4)
    assert disturbances(**changes) == said


@pytest.fixture
def nvidia_smi(monkeypatch):
    """Makes the driver's tool list these processes; returns what it was asked."""
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1a2b"))

    def lists(*pids):
        def run(command, **_):
            asked.append(command)
            return SimpleNamespace(stdout="".join(f"{pid}\n" for pid in pids))

        monkeypatch.setattr(subprocess, "run", run)
        return asked

    return lists


def gpu_users():
    return Surroundings.since(Snapshot.now(), torch.device("cuda:1")).gpu_users


def test_other_users_of_a_gpu_are_those_that_its_driver_lists(nvidia_smi):
    asked = nvidia_smi(os.getpid(), 999_999_998, 999_999_999)
    assert gpu_users() == 2
    assert asked[0][:2] == ["nvidia-smi", "--id=GPU-1a2b"]


@pytest.mark.parametrize("listed", [[], [os.getpid()], [999_999_999]])
def test_this_process_is_no_other_whatever_its_number_there(nvidia_smi, listed):
    nvidia_smi(*listed)
    assert gpu_users() == 0


def test_processes_that_wait_for_tasks_are_no_users(nvidia_smi):
    title = "import time; time.sleep(60)"
    idle = subprocess.Popen(["ray::IDLE", "-c", title], executable=sys.executable)
    try:
        # The kernel lets `Popen` return shortly before the process has its title.
        while not Path(f"/proc/{idle.pid}/cmdline").read_bytes():
            assert idle.poll() is None
        nvidia_smi(os.getpid(), idle.pid)
        assert gpu_users() == 0
    finally:
        idle.kill()
        idle.wait()


def test_users_are_not_known_without_the_driver_s_tool(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1"))
    monkeypatch.setenv("PATH", "")
    assert Surroundings.since(Snapshot.now(), torch.device("cuda")).gpu_users is None


def test_a_device_has_a_name(monkeypatch):
    facts = device_facts(CPU, 2)
    assert facts["device"].endswith(", 2 threads")
    assert len(facts["device"]) > len(", 2 threads")
    assert (facts["device_type"], facts["threads"]) == ("cpu", 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert device_facts(torch.device("cuda"), 8)["device"] == "NVIDIA H200"
