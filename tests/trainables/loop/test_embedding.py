"""Features against the host's, by scikit-learn and by loops; and the evaluation of such a cell."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from trainables.data import open_dataset
from trainables.data.transforms import eval_transform
from trainables.evaluation import evaluate_cell
from trainables.loop import embedding
from trainables.loop.embedding import compare, majority, nearest
from trainables.models.host import build_host, build_model, host_mean_std
from trainables.recipe import Recipe

IMAGES = 60


@pytest.fixture(scope="module")
def features():
    """Features of a reduced host and of the host, and labels that go with them."""
    random = np.random.default_rng(0)
    labels = random.integers(4, size=IMAGES)
    of_host = random.normal(size=(IMAGES, 8)) + 3 * np.eye(8)[labels]
    own = of_host + random.normal(size=of_host.shape)
    return tuple(torch.from_numpy(a) for a in (own.astype(np.float32), of_host.astype(np.float32),
                                               labels))  # fmt: skip


def others_of(vectors, count=10):
    """The nearest other images by scikit-learn, which finds an image itself first."""
    search = NearestNeighbors(n_neighbors=count + 1, metric="cosine").fit(vectors)
    found = search.kneighbors(vectors, return_distance=False)
    assert (found[:, 0] == np.arange(len(vectors))).all()
    return found[:, 1:]


@pytest.mark.parametrize("at_once", [1, 7 * IMAGES, 2**24])
def test_the_nearest_are_scikit_learns_however_many_are_held_at_once(
    features, at_once, monkeypatch
):
    monkeypatch.setattr(embedding, "SIMILARITIES_AT_ONCE", at_once)
    np.testing.assert_array_equal(nearest(features[0]), others_of(features[0].numpy()))


def test_few_images_have_all_others_as_neighbours(features):
    assert nearest(features[0][:4]).sort(dim=1).values.tolist() == [
        [1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2],
    ]  # fmt: skip


def test_cosine_and_overlap_are_those_of_loops(features):
    own, of_host, _ = features
    found = compare(own, of_host, None)
    a, b = own.numpy().astype(float), of_host.numpy().astype(float)
    cosines = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(found.cosine, cosines, rtol=1e-5)
    pairs = zip(others_of(a), others_of(b), strict=True)
    shares = [len(set(x) & set(y)) / 10 for x, y in pairs]
    np.testing.assert_allclose(found.neighbours, shares, rtol=1e-6)
    assert found.vote is None


def test_the_vote_is_scikit_learns_without_the_image_itself(features):
    own, of_host, labels = features
    found = compare(own, of_host, labels)
    for image in range(IMAGES):
        rest = np.arange(IMAGES) != image
        model = KNeighborsClassifier(10, metric="cosine").fit(own[rest], labels[rest])
        assert model.predict(own[image : image + 1]).item() == found.vote[image]


def test_of_several_labels_as_frequent_the_lowest_is_voted():
    assert majority(torch.tensor([[5, 3, 3, 5, 9], [2, 1, 1, 2, 2]])).tolist() == [3, 2]


@pytest.fixture(scope="module")
def embedding_cell(make_cell):
    def make(method="topk", **fields):
        settings = {"task": "embedding", "epochs": 0, "pretrained": True, "dataset": "images"}
        return make_cell(method, **(settings | fields))

    return make


def evaluate(cell, root):
    weights = build_model(cell, 0).state_dict()
    return evaluate_cell(cell, weights, data_root=root, device=torch.device("cpu"), threads=1)


@pytest.fixture(scope="module")
def flat_folder(tmp_path_factory):
    """A folder of 30 digits without folders of classes."""
    root, digits = tmp_path_factory.mktemp("pictures"), open_dataset("digits").val
    for index in range(30):
        digits.image(index).save(root / f"{index:02}.png")
    return root


@pytest.fixture(scope="module")
def evaluation(embedding_cell, flat_folder):
    return evaluate(embedding_cell(), flat_folder)


def test_features_are_those_of_the_reduced_model_and_the_host_of_timm(
    embedding_cell, evaluation, flat_folder
):
    cell = embedding_cell()
    host = build_host(cell.host, num_classes=0, image_size=32).eval()
    model = build_model(cell, 0).eval()
    split, transform = (
        open_dataset("images", flat_folder).val,
        eval_transform(cell.recipe, "embedding"),
    )
    pixels = torch.stack([transform(split.image(index)) for index in range(30)])
    mean, std = (torch.tensor(values)[:, None, None] for values in host_mean_std(cell.host))
    with torch.inference_mode():
        images = (pixels / 255 - mean) / std
        own, other = (net.forward_head(net.forward_features(images), pre_logits=True)
                      for net in (model, host))  # fmt: skip
    np.testing.assert_allclose(evaluation.features["pooled"], own, rtol=0, atol=1e-4)
    assert "host" not in evaluation.features
    expected = 100 * torch.cosine_similarity(own.double(), other.double()).numpy()
    np.testing.assert_allclose(evaluation.predictions["cosine"], expected, atol=1e-3)
    metrics = evaluation.metrics
    assert metrics["metric"] == "cosine"
    assert metrics["accuracy"] == metrics["cosine"] == pytest.approx(expected.mean(), abs=1e-3)
    assert metrics["cosine_p5"] == pytest.approx(np.sort(expected)[1], abs=1e-3)
    assert 0 < metrics["neighbours"] < 100
    json.dumps(metrics, allow_nan=False)


def test_without_labels_there_are_no_answers(evaluation):
    assert list(evaluation.predictions) == ["image", "cosine", "neighbours"]
    assert not {"knn", "top1", "loss"} & evaluation.metrics.keys()


def test_folders_are_labels_that_neighbours_vote_for(embedding_cell, image_folder):
    cell = embedding_cell(dataset="folder")
    found = evaluate(cell, image_folder)
    table = found.predictions
    assert found.metrics["images"] == 40
    assert found.metrics["knn"] == 100 * (table["target"] == table["class_1"]).mean() > 50


def test_the_host_itself_is_not_changed_at_all(embedding_cell, flat_folder):
    metrics = evaluate(embedding_cell("deit", keep_rate=1.0), flat_folder).metrics
    names = ("accuracy", "cosine", "cosine_p5", "neighbours")
    assert [metrics[name] for name in names] == [100.0] * 4
    assert "capped" not in metrics


def test_more_budget_is_closer_but_where_a_method_cannot_remove_as_much(
    embedding_cell, flat_folder
):
    found = {
        (method, rate): evaluate(embedding_cell(method, keep_rate=rate), flat_folder).metrics
        for method in ("topk", "tome")
        for rate in (0.25, 0.5, 0.8)
    }
    for method, rates in (("topk", (0.25, 0.5, 0.8)), ("tome", (0.5, 0.8))):
        cosines = [found[method, rate]["cosine"] for rate in rates]
        assert cosines == sorted(cosines)
    capped = {which: metrics["capped"] for which, metrics in found.items() if metrics["capped"]}
    assert capped == {("tome", 0.25): {"3": 16, "6": 4, "9": 1}}


def test_a_recipe_that_trains_features_is_refused():
    with pytest.raises(ValidationError, match="epochs is 30, but must be 0 where task is 'embed"):
        Recipe(task="embedding")


def test_labels_are_not_asked_of_images_without(flat_folder):
    with pytest.raises(ValueError, match="has no labels to train on; give the recipe `task: emb"):
        open_dataset("images", flat_folder).asked(None)


def test_the_task_is_part_of_the_id_only_where_it_is_given():
    assert "task" not in Recipe().outcome()
    assert Recipe(task="embedding", epochs=0).outcome()["task"] == "embedding"
