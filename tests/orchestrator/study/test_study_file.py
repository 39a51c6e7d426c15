"""The text of study files: YAML 1.2, each key once, and names that nothing answers to."""

import subprocess
import sys

import pytest

import orchestrator.provenance
from orchestrator.errors import UserError
from orchestrator.provenance import provenance
from orchestrator.study.expansion import expand
from orchestrator.study.names import unused_names
from orchestrator.study.study import load_study

TEXT = """
name: one
defaults: {{reduction_loc: [3, 6, 9], recipe: r}}
grids: [{{dataset: [digits], capacity: [tiny], method: [topk], keep_rate: [0.5], seed: [{seed}]}}]
recipes: {{r: {{{recipe}}}}}
resources: {{{resources}}}
"""


@pytest.fixture
def write(tmp_path):
    """Write a study file with some parts of its own; return its path."""

    def write(recipe="epochs: 0, warmup_epochs: 0", seed=0, resources="tiny: {cpu: 1}", end=""):
        path = tmp_path / "study.yaml"
        path.write_text(TEXT.format(recipe=recipe, seed=seed, resources=resources) + end)
        return str(path)

    return write


def refused(path, *settings):
    with pytest.raises(UserError, match="^.+$") as caught:
        expand(load_study(path, settings))
    return str(caught.value)


class TestYaml:
    @pytest.mark.parametrize(
        ("text", "field", "value"),
        [
            ("precision: off", "precision", "off"),
            ("lr: 5e-4", "lr", 5e-4),
            ("lr: 1.5E-3", "lr", 1.5e-3),
            ("min_lr: 0", "min_lr", 0.0),
            ("epochs: 010, warmup_epochs: 0", "epochs", 10),
            ("pretrained: no", "pretrained", False),
            ("pretrained: false", "pretrained", False),
            ("rand_augment: null", "rand_augment", None),
            ("rand_augment: ~", "rand_augment", None),
        ],
    )
    def test_values_are_what_they_look_like(self, write, text, field, value):
        (cell,) = expand(load_study(write(text)))
        assert getattr(cell.recipe, field) == value
        settings = [f"recipes.r.{each.replace(': ', '=')}" for each in text.split(", ")]
        (cell,) = expand(load_study(write(), settings))
        assert getattr(cell.recipe, field) == value

    def test_a_date_is_a_name(self, write):
        assert load_study(write(), ["name=2026-11-29"]).name == "2026-11-29"

    def test_anchors_and_merges_work(self, write):
        end = "x: &x {lr: 0.5}\n"
        path = write("epochs: 0, warmup_epochs: 0, method: {topk: &a {lr: 0.5}, tome: {<<: *a}}")
        assert expand(load_study(path))[0].recipe.lr == 0.5
        assert refused(write(end=end)).endswith("unknown key `x`")

    @pytest.mark.parametrize("recipe", ["lr: 0.1, lr: 0.2", "method: {topk: {}, topk: {}}"])
    def test_a_key_given_twice_is_refused(self, write, recipe):
        key = "topk" if "topk" in recipe else "lr"
        assert f"is not valid YAML: the key '{key}' is given twice" in refused(write(recipe))
        assert "the key 'name' is given twice" in refused(write(end="name: two\n"))


class TestNames:
    @pytest.mark.parametrize(
        ("recipe", "told"),
        [
            ("method: {topkk: {lr: 0.5}}", "there is no method 'topkk'; did you mean 'topk'?"),
            ("dataset: {digit: {lr: 0.5}}", "there is no dataset 'digit'; did you mean 'digits'?"),
            ("dataset: {coco: {lrr: 1}}", "recipes.r.dataset.coco: unknown key `lrr`"),
            ("capacity: {base: {epochs: many}}", "recipes.r.capacity.base: `epochs` is 'many'"),
            ("method: {tome: {lr: -1.0}}", "recipes.r.method.tome: `lr` is -1.0"),
        ],
    )
    def test_a_wrong_override_is_refused_also_where_no_cell_uses_it(self, write, recipe, told):
        assert told in refused(write(recipe))

    def test_all_that_is_wrong_is_named_at_once(self, write):
        told = refused(
            write(
                "method: {topkk: {lr: 1}}, capacity: {tinny: {x: 7}}", resources="tinny: {cpu: 2}"
            )
        )
        for word in ("topkk", "unknown key `x`", "`resources.tinny` has no effect"):
            assert word in told

    def test_rules_among_fields_hold_for_whole_recipes_only(self, write):
        recipe = "epochs: 30, warmup_epochs: 0, method: {tome: {warmup_epochs: 20, epochs: 25}}"
        assert expand(load_study(write(recipe)))[0].recipe.epochs == 30

    def test_a_capacity_that_no_grid_has_is_reported(self, write):
        study = load_study(write(resources="tinny: {cpu: 2}, tiny: {cpu: 1}"))
        assert unused_names(study) == [
            "`resources.tinny` has no effect: no grid has this capacity; did you mean 'tiny'?"
        ]
        assert unused_names(load_study(write())) == []

    @pytest.mark.parametrize(
        ("setting", "told"),
        [
            ("recipes.rr.epochs=7", "the recipe is 'rr', but must be one of: r"),
            ("resources.tinny.cpu=2", "`resources.tinny` has no effect"),
            ("resources.tinny={cpu: 2}", "`resources.tinny` has no effect"),
            ("recipes.r.method.topkk.lr=0.5", "there is no method 'topkk'"),
            ("recipe.r.epochs=1", "unknown key `recipe`"),
        ],
    )
    def test_a_setting_of_nothing_is_refused(self, write, setting, told):
        assert told in refused(write(), setting)

    @pytest.mark.parametrize(
        "name", ["demo", "smoke", "paper", "beyond", "off_the_shelf", "demo_training"]
    )
    def test_shipped_studies_have_no_such_name(self, name):
        assert unused_names(load_study(name)) == []


class TestSeeds:
    @pytest.mark.parametrize("seed", [2**63, 20260101123456789012, -1])
    def test_a_seed_that_some_generator_cannot_take_is_refused(self, write, seed):
        assert f"`grids.0.seed.0` is {seed}: " in refused(write(seed=seed))

    def test_seeds_beyond_32_bits_are_taken(self, write):
        assert expand(load_study(write(seed=2**63 - 1)))[0].seed == 2**63 - 1


def test_the_commit_is_never_that_of_a_surrounding_repository(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.email=a@b", "-c", "user.name=n"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "mine"], check=True)
    installed = tmp_path / "site" / "orchestrator" / "provenance.py"
    monkeypatch.setattr(orchestrator.provenance, "__file__", str(installed))
    installed.parent.mkdir(parents=True)
    assert provenance()["git_commit"] is None
    own = tmp_path / "orchestrator" / "provenance.py"
    own.parent.mkdir()
    monkeypatch.setattr(orchestrator.provenance, "__file__", str(own))
    assert len(provenance()["git_commit"]) == 40


def test_a_home_folder_is_understood(tmp_path):
    recipe = 'host: "digits_{capacity}_patch4_32", image_size: 32, epochs: 0, warmup_epochs: 0'
    text = TEXT.format(recipe=recipe, seed=0, resources="").replace("topk", "deit")
    (tmp_path / "study.yaml").write_text(text)
    options = ["--study=~/study.yaml", "--storage=~/runs", "--data=~/data"]
    ended = subprocess.run(
        [sys.executable, "-m", "orchestrator", "run", *options, "--dry-run"],
        env={"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "digits-deit-tiny-r1-s0-" in ended.stdout  # Whole, although it is a pipe.
