"""The shipped studies that need real datasets: what they ask for is what was published."""

import itertools

import pytest

import reduction
from orchestrator.study.expansion import expand
from orchestrator.study.shipped_recipes import shipped_recipes
from orchestrator.study.study import load_study
from trainables.recipe import Recipe

DATASETS = ("imagenet", "nabirds", "coco", "nuswide")
CAPACITIES = ("tiny", "small", "base")
METHODS = "topk evit ats dynamicvit tome kmedoids dpcknn sit patchmerger sinkhorn l1 l2 linf"
DISTILLED = {"distillation", "teacher"}


@pytest.fixture(scope="module")
def paper():
    return expand(load_study("paper"))


def changed(recipe):
    """The fields of a recipe that decide a result and are not the published ImageNet values."""
    published = Recipe().model_dump(mode="json")
    return {name: value for name, value in recipe.outcome().items() if value != published[name]}


def test_the_paper_has_every_cell_of_the_published_grid_once(paper):
    reduced = itertools.product(DATASETS, CAPACITIES, METHODS.split(), (0.25, 0.5, 0.7, 0.9))
    baselines = itertools.product(DATASETS, CAPACITIES, ["deit"], [1.0])
    found = [(cell.dataset, cell.capacity, cell.method, cell.keep_rate) for cell in paper]
    assert sorted(found) == sorted([*reduced, *baselines])
    assert len(found) == 636
    assert {(cell.reduction_loc, cell.seed) for cell in paper} == {((3, 6, 9), 0)}
    assert {cell.host for cell in paper} == {f"deit_{c}_patch16_224.fb_in1k" for c in CAPACITIES}


def test_the_paper_has_the_published_values_on_imagenet(paper):
    for cell in paper:
        if cell.dataset == "imagenet":
            assert set(changed(cell.recipe)) <= DISTILLED, cell.id


def test_what_the_paper_changes_on_other_datasets_is_length_and_rate(paper):
    chosen = {"lr", "epochs", "warmup_epochs", "ema_decay"}
    for cell in paper:
        if cell.dataset != "imagenet":
            published = {"rand_augment"} if cell.dataset == "nabirds" else set()
            assert set(changed(cell.recipe)) - DISTILLED <= chosen | published, cell.id
    assert {c.recipe.rand_augment for c in paper if c.dataset == "nabirds"} == {None}


def test_dynamicvit_learns_from_the_baseline_and_on_imagenet_from_the_host(paper):
    baselines = {(c.dataset, c.capacity): c.id for c in paper if c.method == "deit"}
    taught = [cell for cell in paper if cell.method == "dynamicvit"]
    assert len(taught) == 48
    for cell in taught:
        assert cell.recipe.distillation == "dynamicvit"
        pretrained = cell.dataset == "imagenet"
        expected = cell.host if pretrained else baselines[cell.dataset, cell.capacity]
        assert cell.teacher == expected
    assert {c.recipe.distillation for c in paper if c.method != "dynamicvit"} == {"none"}


def test_beyond_compares_new_methods_with_the_papers_own_cells(paper):
    beyond = expand(load_study("beyond"))
    shared = {cell.id for cell in beyond} & {cell.id for cell in paper}
    assert {c.method for c in beyond if c.id in shared} == {c.method for c in paper}
    assert len(shared) == 4 * 2 * (1 + 4 + 4) + 11 * 2 * 3
    assert {cell.method for cell in beyond} == set(reduction.METHODS)


def test_beyond_compares_all_methods_with_three_seeds():
    cells = [cell for cell in expand(load_study("beyond")) if not cell.options]
    for dataset, method in itertools.product(("imagenet", "nabirds"), reduction.METHODS):
        which = (dataset, method, "small")
        found = [cell for cell in cells if (cell.dataset, cell.method, cell.capacity) == which]
        rates = {1.0} if method == "deit" else {0.25, 0.5, 0.7}
        wanted = set(itertools.product(rates, range(3)))
        assert {(cell.keep_rate, cell.seed) for cell in found} >= wanted, method


def test_pets_compares_three_hosts_and_eight_methods_at_three_budgets():
    cells = expand(load_study("pets"))
    assert {(cell.capacity, cell.host) for cell in cells} == {
        ("tiny", "deit_tiny_patch16_224.fb_in1k"),
        ("small", "deit_small_patch16_224.fb_in1k"),
        ("dinov2", "vit_small_patch14_dinov2.lvd142m"),
    }
    methods = {cell.method for cell in cells} - {"deit"}
    assert len(methods) == 8
    reduced = itertools.product(methods, (0.25, 0.5, 0.7))
    wanted = itertools.product(("tiny", "small", "dinov2"), [("deit", 1.0), *reduced], range(3))
    assert {(c.capacity, (c.method, c.keep_rate), c.seed) for c in cells} == set(wanted)
    recipes = {cell.recipe.model_copy(update={"host": ""}) for cell in cells}
    (recipe,) = recipes
    shipped = Recipe(**shipped_recipes()["small_data"])
    differ = {name for name in recipe.outcome() if getattr(recipe, name) != getattr(shipped, name)}
    assert differ == {"host", "epochs", "warmup_epochs", "select_on", "cache"}
    assert recipe.select_on == "holdout"


def test_off_the_shelf_trains_nothing_and_has_nothing_to_train():
    cells = expand(load_study("off_the_shelf"))
    assert {cell.recipe.epochs for cell in cells} == {0}
    assert all(set(changed(cell.recipe)) == {"epochs", "ema_decay"} for cell in cells)
    vit = reduction.create_model("deit", "deit_tiny_patch16_224", img_size=64, depth=10)
    for method, options in {(c.method, tuple(c.options.items())) for c in cells}:
        model = reduction.reduce(reduction.unreduce(vit), method, keep_rate=0.9, **dict(options))
        assert not list(model.stages.parameters()), method


def test_embeddings_compares_features_of_any_folder_of_images():
    cells = expand(load_study("embeddings"))
    assert {(cell.dataset, cell.recipe.task, cell.recipe.epochs) for cell in cells} == {
        ("images", "embedding", 0)
    }
    assert {cell.host for cell in cells} == {"vit_small_patch14_dinov2.lvd142m"}
    reduced = [cell for cell in cells if cell.method != "deit"]
    rates = {cell.keep_rate for cell in reduced}
    assert len(reduced) == len({cell.method for cell in reduced}) * len(rates)
    # No method is asked to remove more than half of the tokens at a block, which some cannot.
    assert min(rates) >= 0.5
    vit = reduction.create_model("deit", "deit_tiny_patch16_224", img_size=64, depth=10)
    for method in {cell.method for cell in reduced}:
        model = reduction.reduce(reduction.unreduce(vit), method, keep_rate=0.9)
        assert not list(model.stages.parameters()), method
