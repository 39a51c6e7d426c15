"""Methods from outside the package: as a class, by a name, and by their place."""

import copy
import re
import sys
import textwrap

import pytest
import torch

import reduction
from reduction import methods
from reduction.methods.topk import TopK
from reduction.plan import Keep
from reduction.stage import Stage

SOURCE = """
    from reduction.plan import Keep
    from reduction.stage import Stage

    NOT_A_STAGE = 3

    class FirstTokens(Stage):
        family = "pruning"
        citation = "an example"
        patterns = ("kept",)

        def __init__(self, spec, *, last: bool = False):
            super().__init__(spec)
            self.last = last

        def before_block(self, tokens):
            count = self.spec.target(tokens.num_patches)
            first = tokens.count - count if self.last else 0
            index = first + tokens.x.new_zeros(len(tokens.x), count).cumsum(1).long()
            index = index + index.new_ones(index.shape).cumsum(1) - 1
            return Keep(index=index)

    class Unsaid(Stage):
        family = "pruning"
"""


class OwnStage(Stage):
    family = "pruning"
    citation = "an example"
    patterns = ("kept",)

    def before_block(self, tokens):
        count = self.spec.target(tokens.num_patches)
        index = torch.arange(count).expand(len(tokens.x), -1)
        return Keep(index=index)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that a user has installed."""
    folder = tmp_path / "users_own"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "first.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "users_own.first"
    for name in ("users_own.first", "users_own"):
        sys.modules.pop(name, None)


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(methods, "_REGISTERED", {})


def test_a_class(small_host, small_images):
    model = reduction.reduce(small_host, OwnStage, keep_rate=0.5, reduction_loc=(1, 2))
    _, trace = model.forward_with_trace(small_images)
    assert trace.kept[2].tolist() == [list(range(8))] * 3
    assert model.method == f"{__name__}:OwnStage"
    reduction.set_schedule(model, tokens=[5, 3])
    assert trace.kept.keys() == {1, 2}
    assert model.forward_with_trace(small_images)[1].kept[2].shape == (3, 3)
    assert torch.equal(copy.deepcopy(model)(small_images), model(small_images))


def test_a_class_of_the_librarys_own(small_host, small_images):
    by_class = reduction.reduce(small_host, TopK, keep_rate=0.5, reduction_loc=(1,))
    by_name = reduction.reduce(small_host, "topk", keep_rate=0.5, reduction_loc=(1,))
    assert torch.equal(by_class(small_images), by_name(small_images))


def test_a_registered_name(small_host, small_images, registry):
    reduction.register("mine", OwnStage)
    reduction.register("mine", OwnStage)
    assert list(reduction.METHODS)[-1] == "mine"
    assert reduction.METHODS["mine"].family == "pruning"
    assert len(reduction.METHODS) == len(methods.CLASSES) + 1
    model = reduction.reduce(small_host, "mine", keep_rate=0.5, reduction_loc=(1,))
    assert model.method == "mine"
    assert model.forward_with_trace(small_images)[1].kept[1].shape == (3, 17)


def test_a_place(small_host, small_images, package):
    place = f"{package}:FirstTokens"
    assert place in reduction.METHODS
    assert reduction.METHODS[place].options == {"last": False}
    assert reduction.has_fixed_budget(place, {})
    model = reduction.reduce(small_host, place, keep_rate=0.5, reduction_loc=(1,), last=True)
    assert model.method == place
    kept = model.forward_with_trace(small_images)[1].kept[1]
    assert kept.tolist() == [list(range(18, 35))] * 3


@pytest.mark.parametrize(
    ("name", "stage", "error", "message"),
    [
        ("topk", OwnStage, ValueError, "name is 'topk', but must not be that of another method"),
        ("my-own", OwnStage, ValueError, "name is 'my-own', but must be letters, digits and _"),
        ("mine", 3, TypeError, "method is 3, but must be a name or a subclass of Stage"),
        ("mine", Stage, TypeError, "Stage lacks family, citation, patterns, but must say each"),
    ],
)
def test_refused_names(registry, name, stage, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        reduction.register(name, stage)


def test_two_methods_do_not_share_a_name(registry):
    reduction.register("mine", OwnStage)
    with pytest.raises(ValueError, match="must not be that of another method"):
        reduction.register("mine", TopK)


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ("nowhere:Stage", ValueError, "method nowhere:Stage cannot be imported: ModuleNotFound"),
        ("users_own.first:Other", ValueError, "cannot be imported: AttributeError: module"),
        ("users_own.first:NOT_A_STAGE", TypeError, "method is 3, but must be a name or a subclass"),
        ("users_own.first:Unsaid", TypeError, "Unsaid lacks citation, patterns, but must say each"),
    ],
)
def test_refused_places(small_host, package, place, error, message):
    assert place not in reduction.METHODS
    with pytest.raises(error, match=message):
        reduction.reduce(small_host, place)
    with pytest.raises(KeyError):
        reduction.METHODS[place]
