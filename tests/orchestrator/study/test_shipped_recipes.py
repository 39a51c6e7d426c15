"""Shipped recipes: named by any study, changed by it, and written out where they are used."""

import pytest
import yaml

from orchestrator.errors import UserError
from orchestrator.study.expansion import expand
from orchestrator.study.names import unused_names
from orchestrator.study.shipped_recipes import shipped_recipes
from orchestrator.study.study import load_study
from trainables.recipe import Recipe

GRID = {"dataset": ["digits"], "capacity": ["tiny"], "method": ["topk"], "keep_rate": [0.5]}


@pytest.fixture
def write(tmp_path):
    """Write a study of one cell with this recipe; return its path."""

    def write(recipe, **recipes) -> str:
        path = tmp_path / "study.yaml"
        grid = GRID | {"recipe": recipe, "reduction_loc": [3]}
        path.write_text(yaml.safe_dump({"name": "s", "grids": [grid], "recipes": recipes}))
        return str(path)

    return write


def recipe_of(path, *settings):
    (cell,) = expand(load_study(path, settings))
    return cell.recipe


@pytest.mark.parametrize("name", ["small_data", "probe", "lora"])
def test_a_study_may_name_one(write, name):
    study = load_study(write(name))
    assert recipe_of(write(name)) == Recipe(**shipped_recipes()[name])
    assert study.recipes == {name: {**shipped_recipes()[name], "capacity": {}}}
    assert unused_names(study) == []


def test_paper_is_the_paper_study_s(write):
    (cell, *_) = expand(load_study("paper", ["grids.0.capacity=[tiny]"]))
    ours = recipe_of(write("paper"))
    assert ours.model_copy(update={"teacher": cell.recipe.teacher}) == cell.recipe


def test_a_recipe_of_the_study_s_own_comes_first(write):
    assert recipe_of(write("probe", probe={"lr": 0.5})) == Recipe(lr=0.5)


def test_settings_change_a_shipped_recipe(write):
    changed = recipe_of(write("probe"), "recipes.probe.lr=0.5", "recipes.probe.epochs=3")
    expected = shipped_recipes()["probe"] | {"lr": 0.5, "epochs": 3}
    assert changed == Recipe(**expected)
    assert "recipes.probe" not in str(shipped_recipes())


def test_a_recipe_builds_on_a_shipped_one(write):
    """What it gives for all is not taken back by the overrides of the one it builds on."""
    own = {"base": "paper", "epochs": 25, "dataset": {"nabirds": {"lr": 0.5}, "coco": {"lr": 0.1}}}
    study = load_study(write("mine", mine=own))
    paper, mine = shipped_recipes()["paper"], study.recipes["mine"]
    assert "base" not in mine
    assert mine["epochs"] == 25
    nabirds = paper["dataset"]["nabirds"] | {"lr": 0.5}
    assert mine["dataset"]["nabirds"] == {k: v for k, v in nabirds.items() if k != "epochs"}
    assert mine["dataset"]["coco"]["lr"] == 0.1
    assert mine["method"] == paper["method"]
    assert mine["capacity"] == {"tiny": paper["capacity"]["tiny"]}
    assert recipe_of(write("mine", mine=own)).embeddings == "head"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"base": "papper"}, "recipes.mine.base is 'papper', but must be one of: lora, paper, "),
        ({"base": ["paper"]}, "recipes.mine.base is ['paper'], but must be one of: lora, paper, "),
        ({"base": "probe", "epoch": 3}, "recipes.mine: unknown key `epoch`"),
        ({"base": "probe", "method": {"topkk": {}}}, "there is no method 'topkk'"),
        ({"base": "probe", "method": 3}, "recipes.mine.method must hold recipe fields by method"),
        ({"base": "paper", "backbone": "frozen"}, "embeddings is 'head', but must be 'backbone'"),
    ],
)
def test_mistakes_are_one_line(write, recipe, message):
    with pytest.raises(UserError, match="^.+$") as caught:
        recipe_of(write("mine", mine=recipe))
    assert message in str(caught.value)
