"""Compiled evaluations: the same findings, one compilation each, and going on without."""

import shutil

import pytest
import torch
from backends import Backend

import reduction
from trainables.evaluation import evaluate_cell
from trainables.models import compiling
from trainables.models.compiling import Compiling
from trainables.models.host import build_model
from trainables.models.passes import InferencePass, TrainingPass

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

CPU = torch.device("cpu")
FALLBACK = "evaluates without being compiled, more slowly: "
ALIKE = ("deit", "topk", "random", "dynamicvit", "tome")
METHODS = ["evit", *(pytest.param(name, marks=pytest.mark.slow) for name in ALIKE)]


@pytest.fixture
def compile_with(monkeypatch):
    """Return a function that sets the backend; nothing compiled is left before and after."""

    def use(backend):
        monkeypatch.setattr(compiling, "BACKEND", backend)
        return backend

    torch.compiler.reset()
    yield use
    torch.compiler.reset()


@pytest.fixture(scope="module")
def batches():
    """Two batches of 4 images and one of 3, with the images' numbers."""
    generator = torch.Generator().manual_seed(1)
    images, index = torch.randn(11, 3, 32, 32, generator=generator), torch.arange(100, 111)
    return list(zip(images.split(4), index.split(4), strict=True))


@torch.inference_mode()
def results(model, batches, *, traced, compiling=None):
    found = InferencePass(model, traced=traced, compiling=compiling)
    return [found.run(*batch) for batch in batches]


def refused(words):
    pytest.fail(words)


@pytest.mark.parametrize("method", METHODS)
def test_compiled_passes_find_the_same_with_one_graph(compile_with, small_host, batches, method):
    model = reduction.reduce(small_host, method, keep_rate=0.5, reduction_loc=(1,))
    backend = compile_with(Backend())
    ours = results(model, batches, traced=True, compiling=Compiling("tests", refused))
    assert backend.graphs == 1, "the last batch is smaller and must not be compiled"
    torch.testing.assert_close(ours, results(model, batches, traced=True), rtol=0, atol=0)


@pytest.mark.slow
def test_what_inductor_makes_finds_the_same(compile_with, small_host, batches):
    """Where there is no C++ compiler it makes nothing, and a line says so."""
    model, said = reduction.reduce(small_host, "evit", keep_rate=0.5, reduction_loc=(1,)), []
    ours = results(model, batches, traced=True, compiling=Compiling("tests", said.append))
    torch.testing.assert_close(ours, results(model, batches, traced=True), rtol=1e-4, atol=1e-5)
    assert bool(said) == (shutil.which("g++") is None), said


def evaluate(cell, weights, root):
    return evaluate_cell(cell, weights, data_root=root, device=CPU, threads=1, batch_size=16)


def metrics(evaluation):
    return {name: x for name, x in evaluation.metrics.items() if name != "compiled"}


def assert_same(ours, theirs):
    assert metrics(ours) == metrics(theirs)
    assert ours.predictions.equals(theirs.predictions)
    for found, expected in ((ours.patterns, theirs.patterns), (ours.features, theirs.features)):
        assert list(found) == list(expected)
        assert all((found[name] == expected[name]).all() for name in found)


@pytest.fixture(scope="module")
def weights(small_cell):
    return build_model(small_cell("evit"), 10).state_dict()


@pytest.fixture(scope="module")
def plain(small_cell, weights, image_folder):
    return evaluate(small_cell("evit"), weights, image_folder)


@pytest.mark.parametrize(
    ("broken", "graphs", "notes"),
    [
        (None, 1, ()),
        ("compiling", 1, (FALLBACK + "RuntimeError: no compiler",)),
        ("forward", 1, (FALLBACK + "RuntimeError: no forward pass",)),
    ],
)
def test_an_evaluation_is_the_same_compiled_or_not(
    compile_with, small_cell, weights, image_folder, plain, broken, graphs, notes
):
    backend = compile_with(Backend(broken))
    ours = evaluate(small_cell("evit", compile=True), weights, image_folder)
    assert (backend.graphs, ours.notes) == (graphs, notes)
    assert ours.metrics["compiled"] == (not broken)
    assert (plain.notes, plain.metrics["compiled"]) == ((), False)
    assert_same(ours, plain)


def test_an_evaluation_of_batches_that_differ_in_length_is_not_compiled(
    compile_with, small_cell, image_folder
):
    backend = compile_with(Backend())
    cell = small_cell("ats", compile=True)
    evaluation = evaluate(cell, build_model(cell, 10).state_dict(), image_folder)
    assert evaluation.notes == (f"{FALLBACK}ats keeps another number of tokens in each batch",)
    assert not evaluation.metrics["compiled"]
    assert backend.graphs == 0


def test_a_process_compiles_one_cell_after_the_other(
    compile_with, small_cell, weights, image_folder
):
    """Of its own, torch would give up in silence after so many variants of the same code."""
    backend = compile_with(Backend())
    with torch._dynamo.config.patch(recompile_limit=2):
        for number in (1, 2):
            rate = small_cell("evit", keep_rate=number / 4, compile=True)
            assert evaluate(rate, weights, image_folder).metrics["compiled"]
            assert backend.graphs == number


def test_evaluations_between_epochs_are_compiled_once(compile_with, small_cell, finetune):
    backend = compile_with(Backend())
    finetuning = finetune(small_cell("topk", compile=True, batch_size=80))
    reports = [finetuning.run(lambda: False) for _ in range(2)]
    assert [report.epoch_ended for report in reports] == [True, True]
    assert [report.notes for report in reports] == [(), ()]
    assert backend.graphs == 2, "of the training pass, and of the same one of model and average"


def test_a_compiled_evaluation_between_epochs_finds_the_same(compile_with, small_cell, finetune):
    """Its batches are of 30 and 10 images."""
    compile_with(Backend())
    ours, theirs = (finetune(small_cell("evit", compile=on, batch_size=30)) for on in (True, False))
    for finetuning in (ours, theirs):
        finetuning.evaluate()
    assert ours.best[1] == theirs.best[1]
    assert ours._inference["model"]._compiling.on


def test_where_training_is_not_compiled_evaluations_try_nothing(compile_with, small_cell, finetune):
    backend = compile_with(Backend("compiling"))
    finetuning = finetune(small_cell("topk", compile=True, batch_size=80, epochs=1))
    report = finetuning.run(lambda: False)
    assert report.epoch_ended
    assert report.notes == (
        "trains without being compiled, more slowly: RuntimeError: no compiler",
    )
    assert backend.graphs == 1


def test_evaluations_that_cannot_be_compiled_say_so_once(compile_with, small_cell, finetune):
    backend = compile_with(Backend("forward"))
    cell = small_cell("topk", compile=True, epochs=0, warmup_epochs=0)
    ours, theirs = finetune(cell), finetune(small_cell("topk", epochs=0, warmup_epochs=0))
    for finetuning in (ours, theirs):
        finetuning.evaluate()
    assert ours.best[1] == theirs.best[1]
    assert ours._notes == [FALLBACK + "RuntimeError: no forward pass"]
    assert backend.graphs == 1, "the average is not tried where the model has failed"


@pytest.mark.parametrize("drawn", [0, 7])
def test_a_fuller_pass_has_the_same_weights_and_removes_what_is_drawn(
    small_host, monkeypatch, drawn
):
    monkeypatch.setattr("numpy.random.randint", lambda count: drawn)
    model = reduction.reduce(small_host, "mctf", keep_rate=0.5, reduction_loc=(1,)).train()
    training = TrainingPass(model)
    output = training(torch.randn(2, 3, 32, 32))
    assert output.trace.tokens[1].tolist() == [32, 32]
    assert output.fuller.trace.tokens[1].tolist() == [64 - drawn] * 2
    output.fuller.logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not any("fuller" in name for name, _ in training.named_parameters())


def test_both_passes_may_recompute_their_blocks(small_host, monkeypatch):
    monkeypatch.setattr("numpy.random.randint", lambda count: 3)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    gradients = []
    for recomputed in (True, False):
        model = reduction.reduce(small_host, "mctf", keep_rate=0.5, reduction_loc=(1,)).train()
        model.set_grad_checkpointing(recomputed)
        output = TrainingPass(model)(images)
        (output.logits.sum() + output.fuller.logits.sum()).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_learned_numbers_cost_what_is_asked_for_above_zero(small_host):
    """Two blocks: the second may reduce, whose 64 patches become 32 where half is asked for."""
    model = reduction.reduce(
        small_host, "diffrate", keep_rate=0.5, reduction_loc=(1,), learned=True
    )
    excess = TrainingPass(model.train())(torch.randn(2, 3, 32, 32)).excess_macs
    # Uniform over 64, 60, ..., 4: 34 patches. Only the MLP of the second block sees fewer.
    mlp = 2 * model.embed_dim * model.blocks[1].mlp.fc1.out_features
    assert excess.item() == pytest.approx((34 - 32) * mlp)
    excess.backward()
    stage = model.stages[0]
    assert stage.pruned.logits.grad[0] > 0 > stage.pruned.logits.grad[-1]
    torch.testing.assert_close(stage.merged.logits.grad, stage.pruned.logits.grad)
