"""Compiled training: the same weights up to rounding, and without a word where it works."""

import pytest
import torch
from backends import Backend

from trainables.models import compiling

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

RECIPE = {"batch_size": 40, "epochs": 1, "drop_path": 0.3, "warmup_lr": 1e-4}
METHOD = "topk"


@pytest.fixture(scope="module")
def plain(make_cell, finetune):
    return steps(finetune(make_cell(METHOD, **RECIPE)))


def steps(finetuning, count=2):
    """Return the notes of so many steps and the state after them."""
    reports = [finetuning.run(lambda: True) for _ in range(count)]
    return [words for report in reports for words in report.notes], finetuning.state_dict()


@pytest.fixture
def compiled(make_cell, finetune, monkeypatch):
    """Return a function that trains with a backend, from nothing compiled."""

    def train(backend):
        torch.compiler.reset()
        monkeypatch.setattr(compiling, "BACKEND", backend)
        return steps(finetune(make_cell(METHOD, compile=True, **RECIPE)))

    yield train
    torch.compiler.reset()


def test_compiled_steps_are_the_same_up_to_rounding(compiled, plain):
    backend = Backend()
    notes, state = compiled(backend)
    assert backend.graphs
    assert notes == plain[0] == []
    for part in ("model", "ema"):
        ours, theirs = state[part], plain[1][part]
        assert list(ours) == list(theirs), "a compiled cell's states are those of any other"
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [("compiling", "RuntimeError: no compiler"), ("backward", "RuntimeError: no backward pass")],
)
def test_where_compiling_fails_the_cell_trains_as_if_never_compiled(
    compiled, plain, broken, reason
):
    backend = Backend(broken)
    (words,), state = compiled(backend)
    assert backend.graphs
    assert words.startswith("trains without being compiled, more slowly: ")
    assert reason in words
    assert "\n" not in words
    for part in ("model", "ema"):
        assert all(torch.equal(state[part][n], x) for n, x in plain[1][part].items())


def test_a_method_whose_batches_differ_in_length_is_not_compiled(make_cell, finetune):
    """It would be compiled anew for each length."""
    finetuning = finetune(make_cell("ats", compile=True, **RECIPE))
    notes, _ = steps(finetuning)
    assert not finetuning._compiling.on
    assert notes == [
        "trains without being compiled, more slowly: "
        "ats keeps another number of tokens in each batch"
    ]
