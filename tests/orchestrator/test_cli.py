"""The command line: bad input is one line on stderr and status 2, whatever it is."""

import pytest
import yaml

from orchestrator.cli import main


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Call the command line in an empty folder; return its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--study", "nope"], "study is 'nope', but must be one of: beyond, demo, off_"),
        (["run", "--study", "nowhere/study.yaml"], "there is no study file nowhere/study.yaml"),
        (
            ["run", "--set", "grids.0.method=[topq]"],
            "demo: grids.0.method is 'topq', but must be one of: atc, ats,",
        ),
        (
            ["run", "--set", "grids.0.dataset=[mnist]"],
            "demo: grids.0.dataset is 'mnist', but must be one of: coco, digits,",
        ),
        (["run", "--set", "grids.0.keep_rate=[0.0]"], "`grids.0.keep_rate.0` is 0.0: Input should"),
        (["run", "--set", "grids.0.keep_rate=[1.5]"], "`grids.0.keep_rate.0` is 1.5: Input should"),
        (["run", "--set", "grids.0.seed=zero"], "`grids.0.seed` is 'zero': Input should be a "),
        (["run", "--set", "colour=red"], "unknown key `colour`"),
        (
            ["run", "--set", "defaults.reduction_loc=[3,12]"],
            "reduction_loc has block 12, but must be within 0..11",
        ),
        (
            ["run", "--set", "grids.0.keep_rate=[0.01]"],
            "but must leave at least 1 at every stage",
        ),
        (
            ["run", "--set", "recipes.demo.host=resnet18"],
            "host is 'resnet18', but must be a VisionTransformer of timm",
        ),
        (
            ["run", "--set", "grids.0.dataset=[folder]"],
            "(give its folder with --data DIR)",
        ),
        (["run", "--set", "grids.0.dataset=[folder]", "--data", "nowhere"], "nowhere"),
        (["run", "--only", "imagenet-*"], "--only imagenet-* matches none of the "),
        (["run", "--stages", "train,test"], "--stages is 'test', but must be one of: compare,"),
        (["run", "--storage", "s3://me:hidden@bucket"], "storage: the s3:// URI holds credentials"),
        (["status", "s3://bucket/../b"], "storage: '..' leads out of s3://bucket"),
        (["run", "--storage", "http://host/a"], "storage: Unrecognized filesystem type in URI"),
        (
            ["run", "--storage", "/dev/null"],
            "--storage is '/dev/null', but /dev/null is not a folder",
        ),
        (["run", "--set", "recipes.demo.epochs=["], "'[' is not valid YAML"),
        (
            ["run", "--set", "recipes.demo.dataset=5"],
            "recipes.demo.dataset must hold recipe fields",
        ),
        (["run", "--set", "recipes.demo.method.topk=5"], "must hold recipe fields by method"),
        (
            ["run", "--set", "grids.0.method=[sit]", "--set", "grids.0.eval_keep_rates=[0.7]"],
            "eval_keep_rates has 0.7, but the parameters of sit depend on the keep rate (stages.0.",
        ),
        (["run", "--set", "recipes.demo.host=local-dir:/nope"], "/nope"),
        (["run", "--weights", "nowhere"], "nowhere', but there is no such folder"),
        (["run", "--storage", "/proc/nowhere"], "cannot write the storage /proc/nowhere/demo: "),
        (["run", "--max-concurrent", "0"], "'--max-concurrent'"),
        (["run", "--colour"], "No such option: --colour"),
        (["walk"], "No such command 'walk'"),
        (["status", "."], "holds no study"),
        (["cells", "nowhere"], "nowhere holds no study"),
    ],
)
def test_bad_input_is_one_clear_line(call, arguments, message):
    status, out, err = call(*arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not out


def test_refused_studies_leave_nothing_behind(call, tmp_path):
    call("run", "--set", "defaults.reduction_loc=[3,12]")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_lists_the_cells_and_starts_nothing(call, tmp_path):
    status, out, _ = call("run", "--study", "smoke", "--dry-run")
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split() == [
        "cell",
        "dataset",
        "method",
        "capacity",
        "keep",
        "rate",
        "reserves",
        "state",
    ]
    assert len(lines) == 9
    assert lines[1].split()[1:5] == ["digits", "deit", "tiny", "1"]
    assert lines[-3] == "5 cells: 5 pending"
    assert lines[-2].startswith("left to train: ")
    assert "GPU hours" in lines[-2]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_without_the_datasets_lists_the_cells_and_says_what_is_missing(call):
    status, out, err = call(
        *("run", "--study", "paper", "--dry-run", "--only", "coco-topk-*"),
        *("--set", "recipes.paper.pretrained=false"),
    )
    assert status == 2
    assert "12 cells: 12 pending" in out
    assert err.startswith("error: dataset 'coco' needs a folder")
    assert err.count("\n") == 1


def test_only_selects_cells_by_glob(call):
    _, out, _ = call("run", "--study", "smoke", "--dry-run", "--only", "*topk*", "--only", "*deit*")
    assert "3 cells: 3 pending" in out


def test_an_impossible_reservation_is_refused_before_anything_trains(call, tmp_path):
    study = {"resources": {"tiny": {"cpu": 4096.0}}}
    settings = [f"{key}={yaml.safe_dump(value)}" for key, value in study.items()]
    status, _, err = call("run", "--study", "smoke", "--set", settings[0])
    assert status == 2
    assert "error: resources.tiny asks for 4096 CPU, 0 GPU, but the nodes of this machine " in err
    assert not list(tmp_path.glob("runs/smoke/cells/*/log.jsonl"))
