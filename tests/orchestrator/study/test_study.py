"""Study files: what they expand to, and that every mistake is one clear line."""

import pytest
import yaml

from orchestrator.errors import UserError
from orchestrator.study.expansion import added_teachers, expand
from orchestrator.study.study import load_study
from orchestrator.study.study_file import SHIPPED
from trainables.cell.cell import Cell
from trainables.storage.files import write_atomic

MINIMAL = {
    "name": "minimal",
    "defaults": {"reduction_loc": [3, 6, 9], "recipe": "quick"},
    "grids": [
        {"dataset": ["digits"], "capacity": ["tiny"], "method": ["topk"], "keep_rate": [0.5]}
    ],
    "recipes": {"quick": {"host": "digits_{capacity}_patch4_32", "epochs": 2, "warmup_epochs": 1}},
}


@pytest.fixture
def write(tmp_path):
    """Write a study that differs from the minimal one and return its path."""

    def write(**changes) -> str:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(MINIMAL | changes))
        return str(path)

    return write


GRID = {key: value for key, value in MINIMAL["grids"][0].items() if key != "keep_rate"}


def grid(**axes) -> dict:
    return MINIMAL["grids"][0] | axes


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_every_shipped_study_expands(name):
    cells = expand(load_study(name))
    assert len({cell.id for cell in cells}) == len(cells) > 0


def test_a_grid_is_the_product_of_its_axes(write):
    path = write(grids=[grid(method=["topk", "tome"], keep_rate=[0.25, 0.5], seed=[0, 1, 2])])
    cells = expand(load_study(path))
    assert len(cells) == 12
    assert {(c.method, c.keep_rate, c.seed) for c in cells} == {
        (method, rate, seed)
        for method in ("topk", "tome")
        for rate in (0.25, 0.5)
        for seed in (0, 1, 2)
    }


def test_the_baseline_is_one_cell_at_every_rate(write):
    cells = expand(load_study(write(grids=[grid(method=["deit"], keep_rate=[0.25, 0.5])])))
    assert [cell.keep_rate for cell in cells] == [1.0]


def test_the_baseline_needs_no_keep_rate(write):
    cells = expand(load_study(write(grids=[grid(method=["deit"], keep_rate=[])])))
    assert len(cells) == 1


def test_a_grid_has_one_kind_of_budget(write):
    """Its own in place of that of the defaults; the unreduced cell is the same for all."""
    removed = [8, [8, 4, 0], {"r": 8, "inflect": -1}]
    grids = [
        {**GRID, "method": ["deit", "topk"], "tokens": [[48, 32, 16]]},
        {**GRID, "r": removed},
        GRID,
    ]
    defaults = MINIMAL["defaults"] | {"keep_rate": [0.5]}
    cells = expand(load_study(write(grids=grids, defaults=defaults)))
    assert [cell.budget for cell in cells] == [
        "1", "tokens=48,32,16", "r=8", "r=8,4,0", "r=8 inflect -1", "0.5",
    ]  # fmt: skip


def test_cells_of_overlapping_grids_are_listed_once(write):
    cells = expand(load_study(write(grids=[grid(), grid(keep_rate=[0.5, 0.7])])))
    assert [cell.keep_rate for cell in cells] == [0.5, 0.7]


def test_other_rates_to_evaluate_at_add_up_over_grids(write):
    grids = [
        grid(eval_keep_rates=[0.7, 0.5]),
        grid(eval_keep_rates=[0.25], method=["topk", "deit"]),
    ]
    cells = expand(load_study(write(grids=grids)))
    assert {cell.method: cell.eval_keep_rates for cell in cells} == {
        "topk": (0.25, 0.7),
        "deit": (),
    }


def test_recipes_are_overridden_by_dataset_method_and_capacity_in_this_order(write):
    recipe = MINIMAL["recipes"]["quick"] | {
        "dataset": {"digits": {"epochs": 3, "lr": 0.1, "min_lr": 0.001}},
        "method": {"topk": {"lr": 0.2, "min_lr": 0.002}, "tome": {"epochs": 9}},
        "capacity": {"tiny": {"min_lr": 0.003}},
    }
    (cell,) = expand(load_study(write(recipes={"quick": recipe})))
    assert (cell.recipe.epochs, cell.recipe.lr, cell.recipe.min_lr) == (3, 0.2, 0.003)


def test_ids_tell_what_a_cell_is(write):
    (cell,) = expand(load_study(write()))
    head, _, digest = cell.id.rpartition("-")
    assert head == "digits-topk-tiny-r0.5-s0"
    assert len(digest) == 8


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("recipes.quick.epochs=3", True),
        ("recipes.quick.select_on=holdout", True),
        ("defaults.reduction_loc=[3]", True),
        ("recipes.quick.loader_workers=2", False),
        ("recipes.quick.checkpoint_minutes=1.0", False),
        ("recipes.quick.shared_input=true", False),
        ("resources.tiny={cpu: 2.0, gpu: 1.0, workers: 2}", False),
        ("name=other", False),
        ("grids.0.eval_keep_rates=[0.25]", False),
    ],
)
def test_the_id_changes_with_what_changes_the_outcome_only(write, setting, changes):
    path = write()
    (before,) = expand(load_study(path))
    (after,) = expand(load_study(path, [setting]))
    assert (before.id != after.id) is changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"grids": [grid(method=["topq"])]},
            "minimal: grids.0.method is 'topq', but must be one of: atc,",
        ),
        (
            {"grids": [grid(dataset=["minst"])]},
            "minimal: grids.0.dataset is 'minst', but must be one of: aircraft, cifar10,",
        ),
        ({"grids": [grid(keep_rate=[0.0])]}, "`grids.0.keep_rate.0` is 0.0: "),
        ({"grids": [grid(keep_rate=[1.5])]}, "`grids.0.keep_rate.0` is 1.5: "),
        ({"grids": [grid(keep_rate="half")]}, "`grids.0.keep_rate` is 'half': "),
        ({"grids": [grid(keep_rate=["half"])]}, "`grids.0.keep_rate.0` is 'half': "),
        (
            {"grids": [grid(r=[8])]},
            "minimal: grids.0 has keep_rate and r, but must have one of keep_rate, tokens and r",
        ),
        (
            {"grids": [{**GRID, "tokens": [[48]]}]},
            "grids.0: tokens has 1 values [48], but",
        ),
        ({"grids": [{**GRID, "tokens": [48]}]}, "`grids.0.tokens.0` is 48: "),
        (
            {"grids": [{**GRID, "r": [-8]}]},
            "`grids.0.r.0` is -8: must be a number of tokens, a list with one for each block, or {",
        ),
        ({"grids": [{**GRID, "r": [{"r": 8, "inflect": 2}]}]}, "`grids.0.r.0`: must be a number"),
        ({"grids": [{**GRID, "r": [8], "method": ["dynamicvit"]}]}, "grids.0: dynamicvit learns"),
        ({"grids": [grid(keep_rates=[0.5])]}, "unknown key `grids.0.keep_rates`"),
        ({"grids": [grid(capacity=[])]}, "minimal: grids.0.capacity is missing"),
        ({"grids": [grid(reduction_loc=[6, 3])]}, "must be ascending block indices"),
        ({"grids": []}, "`grids` is []: "),
        ({"name": "../up"}, "`name` is '../up': "),
        ({"recipes": {}}, "recipe is 'quick', but must be one of: "),
        ({"recipes": {"quick": {"epoch": 3}}}, "minimal: recipes.quick: unknown key `epoch`"),
        (
            {"recipes": {"quick": {"epochs": 1, "warmup_epochs": 2}}},
            "minimal: recipes.quick: warmup_epochs is 2, but must be at most epochs (1)",
        ),
        ({"recipes": {"quick": {"lr": -1.0}}}, "minimal: recipes.quick: `lr` is -1.0: "),
        ({"resources": {"tiny": {"gpu": 2.0}}}, "`resources.tiny.gpu` is 2.0: "),
        ({"measure": {"rounds": 5}}, "`measure.rounds` is 5: Input should be greater than or"),
        (
            {"measure": {"precision": "int8"}},
            "`measure.precision` is 'int8': Input should be",
        ),
        ({"measure": {"batch_sizes": [8, 0]}}, "`measure.batch_sizes.1` is 0: Input should be"),
        (
            {"measure": {"batch_sizes": [8, 8]}},
            "`measure.batch_sizes` is [8, 8]: must have at least one batch size, and each once",
        ),
        ({"measure": {"device": "cpu"}}, "unknown key `measure.device`"),
        (
            {"resources": {"tiny": {"gpu": "all"}}},
            "`resources.tiny.gpu` is 'all': must be a number from 0 to 1, or auto",
        ),
        (
            {"resources": {"tiny": {"cpu": True}}},
            "`resources.tiny.cpu` is True: must be a number above 0, or auto",
        ),
        (
            {"resources": {"tiny": {"gpu": "auto", "workers": 2}}},
            "`resources.tiny`: gpu is auto, but must be 0 or 1 with several workers",
        ),
        (
            {"resources": {"tiny": {"cpu": "auto", "workers": 2}}},
            "`resources.tiny`: cpu is auto, but must be a number with several workers",
        ),
        (
            {"resources": {"tiny": {"gpu": 0.5, "workers": 2}}},
            "study.yaml: `resources.tiny`: gpu is 0.5, but must be 0 or 1 with several workers",
        ),
        (
            {"resources": {"tiny": {"workers": 129}}},
            "batch_size is 256, but must be at least 257 for resources.tiny.workers (129)",
        ),
        ({"color": "red"}, "unknown key `color`"),
    ],
)
def test_mistakes_are_named_in_one_line(write, changes, message):
    with pytest.raises(UserError) as caught:
        expand(load_study(write(**changes)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "--set is 'epochs', but must be KEY=VALUE"),
        ("grids.7.seed=[1]", "'7' must be a number below 1"),
        ("name.first=x", "'name' holds no keys of its own"),
        ("recipes.quick.epochs=many", "`epochs` is 'many': "),
    ],
)
def test_wrong_settings_are_named(write, setting, message):
    with pytest.raises(UserError, match="^.+$") as caught:
        expand(load_study(write(), [setting]))
    assert message in str(caught.value)


def test_unknown_studies_are_named_with_a_hint():
    with pytest.raises(UserError, match="did you mean 'demo'"):
        load_study("dmo")
    with pytest.raises(UserError, match="there is no study file nowhere.yaml"):
        load_study("nowhere.yaml")


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("grids: [")
    with pytest.raises(UserError, match=r"broken\.yaml is not valid YAML"):
        load_study(str(path))


def distilling(**recipe) -> dict:
    return {"quick": MINIMAL["recipes"]["quick"] | {"distillation": "dynamicvit"} | recipe}


def test_the_baseline_of_the_study_is_the_teacher(write):
    """Found by what it is, although it comes later and has fields of the recipe of its own."""
    recipes = {
        "quick": MINIMAL["recipes"]["quick"]
        | {"method": {"dynamicvit": {"distillation": "dynamicvit", "lr": 0.1}}}
    }
    grids = [grid(method=["dynamicvit"], keep_rate=[0.5, 0.7], seed=[0, 1]), grid(method=["deit"])]
    study = load_study(write(grids=grids, recipes=recipes))
    cells = expand(study)
    teachers = {cell.seed: cell.id for cell in cells if cell.method == "deit"}
    students = [cell for cell in cells if cell.method == "dynamicvit"]
    assert [cell.prerequisite for cell in students] == [teachers[cell.seed] for cell in students]
    assert [cell.id for cell in added_teachers(study)] == [teachers[1]]  # Its seed has no grid.
    assert cells[-1].id == teachers[1]
    assert all(cell.prerequisite is None for cell in cells if cell.method == "deit")


def test_who_the_teacher_is_decides_the_id(write):
    grids = [grid(method=["dynamicvit"])]
    path = write(grids=grids, recipes=distilling())

    def student(*settings) -> Cell:
        return expand(load_study(path, settings))[0]

    ids = {
        student(*settings).id
        for settings in (
            [],
            ["recipes.quick.teacher=digits_small_patch4_32"],
            ["recipes.quick.method={deit: {lr: 0.1}}"],
            ["recipes.quick.teacher_tokens_weight=1.0"],
            ["recipes.quick.distillation=none"],
        )
    }
    assert len(ids) == 5
    # These take part in other kinds of distillation only.
    assert student("recipes.quick.distillation_tau=2.0").id == student().id
    none = "recipes.quick.distillation=none"
    assert student(none, "recipes.quick.teacher=x").id == student(none).id


def test_a_pretrained_teacher_is_no_cell(write):
    recipes = distilling(teacher="digits_{capacity}_patch4_32")
    study = load_study(write(grids=[grid(method=["dynamicvit"])], recipes=recipes))
    (cell,) = expand(study)
    assert (cell.prerequisite, cell.teacher) == (None, "digits_tiny_patch4_32")
    assert added_teachers(study) == []


def test_a_baseline_on_another_host_is_refused_as_teacher(write):
    recipes = distilling(method={"deit": {"image_size": 64}})
    study = load_study(write(grids=[grid(method=["dynamicvit"])], recipes=recipes))
    with pytest.raises(UserError, match=r"image_size of the teacher \S+ is 64, but must be that"):
        expand(study)


def test_the_record_that_a_store_keeps_of_a_study_will_do(write, store_folder):
    study = load_study(write())
    record = {"versions": {}, "git_commit": None, "cells": ["some-cell"]}
    path = store_folder / "study.yaml"
    write_atomic(path, yaml.dump(study.model_dump(mode="json") | record).encode())
    assert load_study(str(path)) == study
    in_defaults = {"capacity": ["tiny"], "keep_rate": [0.5], "reduction_loc": [1, 2], "seed": [3]}
    leaner = {name: axis for name, axis in grid().items() if name not in in_defaults}
    study = load_study(write(defaults=MINIMAL["defaults"] | in_defaults, grids=[leaner]))
    write_atomic(path, yaml.dump(study.model_dump(mode="json") | record).encode())
    assert expand(load_study(str(path))) == expand(study) != []
    write_atomic(path, yaml.dump({"name": "imported", "grids": []} | record).encode())
    assert expand(load_study(str(path))) == []
