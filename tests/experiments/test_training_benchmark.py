"""The benchmark of training and evaluation: what it compares, and that it runs."""

import json

import pytest
import torch
from backends import Backend

from experiments.benchmarks import training
from trainables.models import compiling

OPTIONS = "--host deit_tiny_patch16_224 --image-size 64 --batch-size 4 --repeats 1 --threads 1"


@pytest.fixture
def bench():
    return training.Benchmark(training.parse(OPTIONS.split()))


def test_both_loops_train_the_same_model(bench):
    loop = training.TimmLoop(bench._recipe, torch.device("cpu"))
    ours, theirs = bench._baseline.model.state_dict(), loop._model.state_dict()
    shapes = {name: tensor.shape for name, tensor in theirs.items()}
    assert {name: tensor.shape for name, tensor in ours.items()} == shapes
    before = {name: tensor.clone() for name, tensor in theirs.items()}
    loop.step()
    assert not all(torch.equal(before[name], x) for name, x in loop._model.state_dict().items())


def test_turns_alternate_and_the_first_pair_warms_up(bench):
    order = []
    pairs = bench._turns(lambda: order.append("first"), lambda: order.append("second"))
    assert order == ["first", "second"] * 2
    assert len(pairs) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_an_evaluation_is_compared_with_itself_compiled(monkeypatch):
    torch.compiler.reset()
    backend = Backend()
    monkeypatch.setattr(compiling, "BACKEND", backend)
    bench = training.Benchmark(training.parse([*OPTIONS.split(), "--compile"]))
    _, compiled = bench.evaluations()
    assert backend.graphs == 1
    assert compiled.value > 0
    assert compiled.details == "4 batches of 4 images"
    torch.compiler.reset()


def test_a_short_run(tmp_path, capsys):
    training.main([*OPTIONS.split(), "--eval-batches", "1", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "training.json").read_text())["rows"]
    host, topk, computed_again, checkpoint, evaluation = rows
    assert "timm's" in host["details"]
    speed_up, work = (float(fact.split()[1]) for fact in topk["details"].split(", "))
    assert topk["value"] == pytest.approx(speed_up * work, rel=0.05)
    assert 0.4 < work < 0.7
    assert evaluation["value"] > 0
    assert "plain" in computed_again["details"]
    assert checkpoint["value"] > 0
    assert "| evaluating topk" in capsys.readouterr().out
