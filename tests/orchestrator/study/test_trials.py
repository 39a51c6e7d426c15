"""A study's section `tuning`: which trials there are, who waits for them, and their ids."""

import pytest

from orchestrator.errors import UserError
from orchestrator.study.expansion import expand
from orchestrator.study.selection import Options, select
from orchestrator.study.study import Study, load_study
from orchestrator.study.trials import searches_of
from trainables.cell.cell import is_trial
from trainables.recipe import Recipe

DISTILLED = {"distillation": "dynamicvit"}
GRIDS = [
    {"method": ["deit"]},
    {"method": ["topk"], "keep_rate": [0.25, 0.5], "seed": [0, 1]},
    {"method": ["dpcknn"], "keep_rate": [0.5], "options": {"equal_weight": True}},
]
SECTION = {"values": {"lr": [1e-3, 1e-2]}, "epochs": 2}


def study(tuning=SECTION, grids=GRIDS, **recipe):
    recipe = {"epochs": 4, "warmup_epochs": 2, "host": "digits_tiny_patch4_32", **recipe}
    return Study.model_validate(
        {
            "name": "tuned",
            "defaults": {
                "dataset": ["digits"],
                "capacity": ["tiny"],
                "reduction_loc": [3],
                "recipe": "mine",
            },
            "grids": grids,
            "recipes": {"mine": recipe},
            "tuning": {"mine": tuning} if tuning else {},
        }
    )


def test_every_method_has_a_search_of_its_own_whose_trials_are_at_one_rate_and_seed():
    found = searches_of(study())
    waiting = {search.place["method"]: len(search.cells) for search in found.all}
    assert waiting == {"deit": 1, "topk": 4, "dpcknn equal_weight=True": 1}
    trials = {trial.id: trial for trial in found.trials}
    assert len(trials) == 6
    for search in found.all:
        for candidate in search.candidates:
            (trial,) = (trials[trial_id] for trial_id in candidate.trials)
            assert trial.recipe.lr == candidate.values["lr"]
            assert (trial.recipe.epochs, trial.recipe.warmup_epochs) == (2, 1)
            assert trial.recipe.select_on == "holdout"
            assert trial.keep_rate == (1.0 if trial.method == "deit" else 0.5)
            assert trial.seed == 1000
            assert is_trial(trial.id)
    assert not any(is_trial(cell.id) for cell in expand(study()))


def test_ids_are_what_they_were_where_nothing_is_tuned():
    plain = expand(study(tuning=None))
    assert [cell.id for cell in plain] == [
        "digits-deit-tiny-r1-s0-f521916e",
        "digits-topk-tiny-r0.25-s0-633a8495",
        "digits-topk-tiny-r0.25-s1-e513e4bc",
        "digits-topk-tiny-r0.5-s0-5351f995",
        "digits-topk-tiny-r0.5-s1-46dc7a1e",
        "digits-dpcknn-tiny-r0.5-s0-cc8f3789",
    ]
    assert "tuning" not in plain[0].model_dump_json()
    assert "tuning" not in study(tuning=None).model_dump()


def test_an_id_covers_the_section_and_that_of_a_trial_what_it_tries():
    ours, more = study(), study(SECTION | {"values": {"lr": [1e-3, 1e-2, 1e-1]}})
    assert not {c.id for c in expand(ours)} & {c.id for c in expand(more)}
    assert not {c.id for c in expand(ours)} & {c.id for c in expand(study(tuning=None))}
    trials = {c.id for c in searches_of(ours).trials}
    assert trials < {c.id for c in searches_of(more).trials}
    halved = study(SECTION | {"scheduler": "asha"})
    assert not trials & {c.id for c in searches_of(halved).trials}


def test_a_trial_is_never_the_cell_that_a_study_would_report():
    recipe = Recipe.model_validate(study().recipes["mine"])
    same = {"values": {"lr": [recipe.lr]}, "at": {"seed": 7}}
    (trial,) = (
        t for t in searches_of(study(same, select_on="holdout")).trials if t.method == "deit"
    )
    (reported,) = (
        c for c in expand(study(None, [{"method": ["deit"], "seed": [7]}], select_on="holdout"))
    )
    assert trial.recipe == reported.recipe
    assert trial.id != reported.id


def test_a_choice_may_be_shared_by_methods():
    (shared,) = searches_of(study(SECTION | {"per": ["dataset"]})).all
    assert shared.place == {"dataset": "digits"}
    assert [len(candidate.trials) for candidate in shared.candidates] == [3, 3]
    assert len(shared.cells) == 6


def test_students_of_trials_have_a_teacher_that_is_tuned_itself():
    grids = [{"method": ["dynamicvit"], "keep_rate": [0.5]}]
    distilling = study(grids=grids, method={"dynamicvit": DISTILLED})
    student, teacher = expand(distilling)
    assert student.prerequisite == teacher.id
    found = searches_of(distilling)
    of_student, of_teacher = found.of(student.id), found.of(teacher.id)
    assert of_student is not of_teacher
    (own_teacher,) = (cell for cell in found.trials if cell.trial == "teacher")
    assert (own_teacher.seed, own_teacher.recipe.epochs) == (1000, 4)
    assert found.of(own_teacher.id) is of_teacher
    trials = {trial.id: trial for trial in found.trials}
    assert {trials[t].prerequisite for t in of_student.trials} == {own_teacher.id}
    assert {trials[t].prerequisite for t in of_teacher.trials} == {None}
    wanted = found.prerequisites(student)
    assert wanted == [*of_student.trials, teacher.id]


@pytest.mark.parametrize(
    ("changed", "recipe", "told"),
    [
        ({"at": {"seed": 1}}, {}, "tuning.mine.at.seed is 1, but must be one that no cell has"),
        ({"epochs": 5}, {}, "epochs is 5, but must be at most the recipe's (4)"),
        ({"epochs": None}, {"epochs": 0}, "its recipe has 0 epochs"),
        ({"values": {"lr": [-1.0]}}, {}, "tuning.mine: `lr`"),
        (
            {"per": ["dataset"]},
            {"method": {"topk": {"distillation": "idlevit"}}},
            "per is ['dataset'], but must have method",
        ),
    ],
)
def test_a_section_that_does_not_fit_its_cells_is_refused_in_a_line(changed, recipe, told):
    with pytest.raises(UserError) as refused:
        searches_of(study(SECTION | changed, **recipe))
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_cells_of_other_budgets_are_not_tuned_at_a_keep_rate():
    with pytest.raises(UserError, match="has r=8, but values are tried at a keep rate"):
        searches_of(study(grids=[{"method": ["tome"], "r": [8]}]))


def test_a_launch_takes_the_trials_along_that_its_cells_need(tmp_path):
    setting = 'tuning.smoke={"values": {"lr": [1e-4, 1e-3]}}'
    options = {"storage": tmp_path, "study": "smoke", "settings": [setting]}
    alone = select(Options(**options, only=["*-topk-*-r0.5-s0-*"]))
    reported = [cell for cell in alone.selected if not cell.trial]
    assert len(reported) == 1
    needed = {cell.id for cell in alone.selected} - {reported[0].id}
    assert needed == set(alone.searches.trials_of(reported[0].id))
    assert alone.notes() == ["also selected to choose values of recipes: 2 trials"]
    assert not set(needed) & {cell.id for cell in alone.cells}
    evaluating = select(Options(**options, phases=["evaluate"]))
    assert not any(cell.trial for cell in evaluating.selected)
    trials = select(Options(**options, only=["*-trial-*"]))
    assert [cell.id for cell in trials.selected] == [cell.id for cell in trials.searches.trials]


def test_a_section_of_an_unknown_recipe_is_refused():
    with pytest.raises(UserError, match="the recipe in tuning"):
        load_study("smoke", ['tuning.nothing={"values": {"lr": [1e-4]}}'])
