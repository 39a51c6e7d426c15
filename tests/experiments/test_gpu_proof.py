"""The proof on a GPU: that its parts run, here on the CPU, and what a call cut off leaves."""

import json
import subprocess
import sys
from importlib import import_module

import pytest

from experiments.gpu_proof import __main__ as gpu_proof
from experiments.gpu_proof.findings import Finding, Machine, PartResult, append, page, read
from experiments.gpu_proof.parts import PACKAGE, PARTS, Part
from experiments.gpu_proof.running import PartRun
from experiments.gpu_proof.workplace import ROOT

GPU = "NVIDIA H200"
FINDING = "from experiments.gpu_proof.findings import Finding\n"
ONE = "def prove(place, job):\n    yield Finding(what=job, found=place.device, passed=True)\n"


def machine(device="cuda"):
    return Machine(
        device=device, name=GPU, versions={"torch": "2"}, missing=[], commit="1a2b", began="now"
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs a part of this code and returns what was noted."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "made").mkdir()

    def run(code, seconds=600.0):
        (tmp_path / "made" / "part.py").write_text(FINDING + code)
        noted = []
        part = Part("part", "something", seconds, "made.part", "a job")
        PartRun(part, "cpu", tmp_path).watched(noted.append)
        return noted

    return run


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_listed_part_is_a_module_that_proves(part):
    assert callable(import_module(f"{PACKAGE}.{part.module}").prove)


def test_a_part_gets_its_job_and_device_and_its_findings_are_kept(run):
    first, *_, last = run(ONE)
    assert (first.ended, first.findings) == ("begun, not ended", [])
    assert (last.ended, last.failed) == ("whole", False)
    assert last.findings == [Finding(what="a job", found="cpu", passed=True)]


def test_what_was_found_before_a_part_broke_off_is_kept(run):
    last = run(ONE + "    raise ValueError('no more')\n")[-1]
    assert last.ended == "broke off: ValueError: no more; see part.log"
    assert last.failed
    assert len(last.findings) == 1


def test_a_part_ends_with_its_time(run):
    last = run("import signal\nsignal.pause()\n", seconds=0.1)[-1]
    assert (last.ended, last.failed) == ("cut off after 0 s", False)


def test_a_package_that_is_not_installed_is_named_and_is_no_failure(run):
    last = run("import ray_of_another_world.tune\n")[-1]
    assert (last.ended, last.failed) == ("not run: ray_of_another_world is not installed", False)


def test_a_module_of_our_own_that_is_missing_is_a_failure(run):
    last = run("import reduction.no_such_module\n")[-1]
    assert last.ended.startswith("broke off: ModuleNotFoundError")


def test_a_torn_line_is_left_out(tmp_path):
    path, finding = tmp_path / "part.jsonl", Finding(what="this", found="that")
    assert read(path) == []
    append(path, finding)
    with path.open("a") as file:
        file.write('{"what": "to')
    assert read(path) == [finding]


def outcomes(device):
    findings = [
        Finding(what="a", found="", passed=True),
        Finding(what="b", found="", passed=False),
        Finding(what="c", found=""),
        Finding(what="d", found="no room", ran=False),
    ]
    result = PartResult(part="p", proves="", ended="whole", seconds=1, limit=9, findings=findings)
    lines = list(page(machine(device), [result]))
    return lines[0], [line.split(" | ")[2] for line in lines if line.startswith("| p |")]


def test_a_rehearsal_cannot_be_taken_for_a_proof():
    first, called = outcomes("cpu")
    assert "nothing of it has run on a GPU" in first
    rehearsed = "rehearsed on the CPU"
    assert called == [rehearsed, "FAILED in rehearsal", rehearsed, "not run"]
    assert outcomes("cuda") == (
        f"**Run on {GPU}.**",
        [f"passed on {GPU}", f"FAILED on {GPU}", f"measured on {GPU}", "not run"],
    )


def test_later_parts_join_those_of_the_same_machine_and_commit(tmp_path, monkeypatch, capsys):
    def call(part, commit):
        monkeypatch.setattr(gpu_proof, "look", lambda device: replaced(commit))
        with pytest.raises(SystemExit) as ended:
            gpu_proof.main(["--parts", part, "--out", str(tmp_path)])
        assert not ended.value.code
        record = json.loads((tmp_path / "gpu_proof.json").read_text())
        return [each["part"] for each in record["parts"]]

    def replaced(commit):
        return Machine(**{**vars(machine("cpu")), "commit": commit})

    def watched(run, note):
        result = PartResult(
            part=run.part.name, proves="", ended="whole", seconds=0, limit=1, findings=[]
        )
        note(result)
        return result

    monkeypatch.setattr(PartRun, "watched", watched)
    assert call("eager", "1a2b") == ["eager"]
    assert call("reference", "1a2b") == ["reference", "eager"]
    assert call("graph", "3c4d") == ["graph"]


def test_a_gpu_that_is_not_there_is_refused():
    command = [sys.executable, "-m", "experiments.gpu_proof", "--device", "cuda"]
    hidden = {"CUDA_VISIBLE_DEVICES": "", "PATH": ""}
    ended = subprocess.run(command, cwd=ROOT, env=hidden, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.strip() == (
        "--device is 'cuda', but torch finds no GPU here; rehearse with: --device cpu"
    )


@pytest.mark.slow
def test_every_part_is_rehearsed(tmp_path):
    command = [sys.executable, "-m", "experiments.gpu_proof", "--device", "cpu"]
    ended = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True)
    table = (tmp_path / "gpu_proof.md").read_text()
    assert ended.returncode == 0, table
    record = json.loads((tmp_path / "gpu_proof.json").read_text())
    assert [part["part"] for part in record["parts"]] == [part.name for part in PARTS]
    assert {part["ended"] for part in record["parts"]} == {"whole"}, table
    assert all(part["findings"] for part in record["parts"])
    assert " passed on " not in table
