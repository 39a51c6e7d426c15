"""The evaluation of a cell against its model's own logits and traces, recomputed naively."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import reduction
from trainables.data import open_dataset
from trainables.data.transforms import eval_transform
from trainables.evaluation import _run, evaluate_cell
from trainables.loop.metrics import mean_average_precision, predict
from trainables.models.host import build_model, host_mean_std
from trainables.models.passes import InferencePass

METHODS = {"deit": "baseline", "topk": "pruning", "evit": "pruning", "tome": "merging"}


def evaluate(cell, weights, root=None):
    return evaluate_cell(
        cell, weights, data_root=root, device=torch.device("cpu"), threads=1, batch_size=16
    )


def images_and_targets(cell, split, task):
    transform = eval_transform(cell.recipe, task)
    pixels = torch.stack([transform(split.image(index)) for index in range(len(split))])
    mean, std = (torch.tensor(values)[:, None, None] for values in host_mean_std(cell.host))
    return (pixels / 255 - mean) / std, [split.target(index) for index in range(len(split))]


@pytest.fixture(scope="module", params=METHODS)
def cell(request, make_cell):
    return make_cell(request.param, pretrained=True)


@pytest.fixture(scope="module")
def dataset(image_folder):
    return open_dataset("folder", image_folder)


@pytest.fixture(scope="module")
def model(cell, dataset):
    return build_model(cell, len(dataset.class_names)).eval()


@pytest.fixture(scope="module")
def evaluation(cell, model, image_folder):
    return evaluate(cell, model.state_dict(), image_folder)


@pytest.fixture(scope="module")
def expected(cell, model, dataset):
    images, targets = images_and_targets(cell, dataset.val, dataset.task)
    with torch.inference_mode():
        logits, trace = model.forward_with_trace(images)
    return logits, torch.tensor(targets), trace


def test_metrics_are_those_of_the_logits(cell, model, evaluation, expected):
    logits, targets, trace = expected
    metrics = evaluation.metrics
    ranks = (logits > logits.gather(1, targets[:, None])).sum(dim=1)
    assert metrics["accuracy"] == metrics["top1"]
    assert metrics["top1"] == pytest.approx(100 * (ranks < 1).double().mean().item())
    assert metrics["top5"] == pytest.approx(100 * (ranks < 5).double().mean().item())
    assert metrics["loss"] == pytest.approx(
        functional.cross_entropy(logits, targets).item(), rel=1e-5
    )
    assert metrics["images"] == 40
    assert (metrics["metric"], metrics["select_on"]) == ("top1", "val")
    assert metrics["family"] == METHODS[cell.method]
    assert metrics["tokens"] == {
        str(block): pytest.approx(tokens.double().mean().item())
        for block, tokens in trace.tokens.items()
    }
    assert metrics["gmacs"] == pytest.approx(reduction.flops(model, trace.tokens).macs / 1e9)
    assert metrics["gflops"] == 2 * metrics["gmacs"]
    assert metrics["parameters"] == sum(p.numel() for p in model.parameters())
    json.dumps(metrics, allow_nan=False)


def test_predictions_name_the_likeliest_classes(evaluation, expected):
    logits, targets, _ = expected
    table = evaluation.predictions
    order = (-logits.numpy()).argsort(axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(table[[f"class_{i}" for i in range(1, 6)]], order)
    probabilities = np.take_along_axis(logits.softmax(dim=1).numpy(), order, axis=1)
    scores = table[[f"score_{i}" for i in range(1, 6)]]
    np.testing.assert_allclose(scores, probabilities, rtol=1e-4)
    np.testing.assert_array_equal(table["target"], targets)
    np.testing.assert_array_equal(table["image"], np.arange(40))
    losses = functional.cross_entropy(logits, targets, reduction="none")
    np.testing.assert_allclose(table["loss"], losses, rtol=1e-3, atol=1e-5)


def test_patterns_are_those_of_the_trace(evaluation, expected):
    patterns, trace = evaluation.patterns, expected[2]
    np.testing.assert_array_equal(patterns["image"], np.arange(40, dtype=np.int32))
    assert patterns["grid"].tolist() == [8, 8]
    assert patterns["depth"] == 12
    named = {"tokens": trace.tokens, "kept": trace.kept, "group": trace.groups}
    stored = {name for name in patterns if name not in ("image", "grid", "depth")}
    assert stored == {f"{kind}_{block}" for kind in named for block in named[kind]}
    for block, kept in trace.kept.items():
        values = patterns[f"kept_{block}"]
        assert values.dtype == np.uint8
        np.testing.assert_array_equal(np.where(values == 255, -1, values.astype(int)), kept)
    for block, groups in trace.groups.items():
        np.testing.assert_array_equal(patterns[f"group_{block}"], groups)
    for block, tokens in trace.tokens.items():
        np.testing.assert_array_equal(patterns[f"tokens_{block}"], tokens)


def test_features_are_the_cls_tokens(evaluation, expected):
    trace = expected[2]
    assert list(evaluation.features) == ["cls_3", "cls_6", "cls_9", "cls_11"]
    for block, cls in trace.cls.items():
        ours = evaluation.features[f"cls_{block}"]
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, cls, rtol=0, atol=1e-4)


def test_batches_of_different_width_are_padded(make_cell, image_folder):
    """Adaptive sampling keeps different numbers of tokens, and pads to a batch's largest."""
    cell = make_cell("ats", keep_rate=0.7, pretrained=True)
    weights = build_model(cell, 10).state_dict()
    patterns = evaluate(cell, weights, image_folder).patterns
    for block in (3, 6, 9):
        kept, tokens = patterns[f"kept_{block}"], patterns[f"tokens_{block}"]
        np.testing.assert_array_equal((kept != 255).sum(axis=1), tokens)
        assert kept.shape == (40, tokens.max())


def test_many_patches_are_stored_in_16_bits(make_cell, image_folder):
    cell = make_cell("evit", keep_rate=0.5, image_size=64)
    patterns = evaluate(cell, build_model(cell, 10).state_dict(), image_folder).patterns
    kept = patterns["kept_3"]
    assert kept.dtype == np.uint16
    assert patterns["grid"].tolist() == [16, 16]
    assert (kept[:, -1] == 65535).all(), "the fused token"
    assert kept[:, :-1].max() < 256


def test_several_labels_are_scored_by_mean_average_precision(make_cell):
    cell = make_cell("topk", dataset="digits_multi", pretrained=True)
    model = build_model(cell, 10).eval()
    split = open_dataset("digits_multi").val
    images, targets = images_and_targets(cell, split, "multi_label")
    with torch.inference_mode():
        logits = torch.cat([model(batch) for batch in images.split(16)])

    evaluation = evaluate(cell, model.state_dict())
    metrics, table = evaluation.metrics, evaluation.predictions
    np.testing.assert_allclose(np.stack(table["scores"]), logits.sigmoid(), rtol=1e-5)
    labels = [target.nonzero()[0].tolist() for target in targets]
    assert [row.tolist() for row in table["target"]] == labels
    mean, undefined = mean_average_precision(logits, torch.from_numpy(np.stack(targets)))
    assert metrics["map"] == metrics["accuracy"] == pytest.approx(mean, rel=1e-9)
    assert metrics["classes_without_positives"] == undefined
    assert "top1" not in metrics


def test_the_best_weights_have_the_accuracy_training_reported(make_cell, finetune, image_folder):
    cell = make_cell("tome", pretrained=True, epochs=1, warmup_lr=1e-3)
    finetuning = finetune(cell)
    finetuning.run(lambda: False)
    weights, meta = finetuning.best
    assert evaluate(cell, weights, image_folder).metrics["accuracy"] == meta["accuracy"]


@pytest.mark.parametrize("method", reduction.METHODS)
def test_every_method_can_be_evaluated_twice_alike(make_cell, image_folder, method):
    cell = make_cell(method, pretrained=True)
    weights = build_model(cell, 10).state_dict()
    first, second = (evaluate(cell, weights, image_folder) for _ in range(2))
    assert first.predictions.equals(second.predictions)
    for arrays, again in (
        (first.patterns, second.patterns),
        (first.features, second.features),
    ):
        assert arrays.keys() == again.keys()
        assert all(np.array_equal(arrays[name], again[name]) for name in arrays)
    assert first.metrics == second.metrics


def test_weights_of_another_cell_are_refused(make_cell, image_folder):
    weights = build_model(make_cell("sit"), 10).state_dict()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        evaluate(make_cell("topk"), weights, image_folder)


class Waits(TorchFunctionMode):
    """Counts what a host does for which it would have to wait for a GPU."""

    NAMES = frozenset({"item", "tolist", "cpu", "__int__", "__bool__", "__float__", "__index__"})

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += getattr(func, "__name__", None) in self.NAMES
        return func(*args, **kwargs or {})


def waits(run, batches):
    with Waits() as found:
        run(made_up_batches(batches))
    return found.count


def made_up_batches(count):
    indices = torch.arange(4 * count).split(4)
    return [(torch.randn(4, 3, 32, 32), index % 10, index) for index in indices]


@pytest.mark.parametrize("method", ["evit", "tome", "ats"])
def test_the_host_waits_at_the_end_alone(make_cell, method):
    """But for adaptive sampling: each of its stages has to know a batch's longest image."""
    model, cpu = build_model(make_cell(method), 10).eval(), torch.device("cpu")
    for run in (
        lambda batches: _run(InferencePass(model, traced=True), batches, cpu, None),
        lambda batches: predict([InferencePass(model)], batches, device=cpu, dtype=None),
    ):
        few, many = waits(run, 2), waits(run, 6)
        assert few > 0
        assert many - few == (4 * 3 if method == "ats" else 0)


def test_speed_is_measured_on_a_batch_that_is_there(make_cell, image_folder, monkeypatch):
    """Going through the images again would start all loader processes again."""
    started, split = [], open_dataset("folder", image_folder).val
    read = type(split).image
    monkeypatch.setattr(
        type(split), "image", lambda self, index: started.append(index) or read(self, index)
    )
    cell = make_cell("topk")
    evaluate(cell, build_model(cell, 10).state_dict(), image_folder)
    assert sorted(started) == list(range(40))
