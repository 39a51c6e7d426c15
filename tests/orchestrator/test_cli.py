"""The command line: bad input is one line on stderr and status 2, whatever it is."""

import re

import joblib
import pytest
import yaml


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "--study", "nope"],
            "study is 'nope', but must be one of: beyond, demo, demo_training, ",
        ),
        (["run", "--study", "nowhere/study.yaml"], "there is no study file nowhere/study.yaml"),
        (
            ["run", "--set", "grids.0.method=[topq]"],
            "demo: grids.0.method is 'topq', but must be one of: atc, ats,",
        ),
        (
            ["run", "--set", "grids.0.dataset=[minst]"],
            "demo: grids.0.dataset is 'minst', but must be one of: aircraft, cifar10,",
        ),
        (["run", "--set", "grids.0.keep_rate=[0.0]"], "`grids.0.keep_rate.0` is 0.0: Input should"),
        (["run", "--set", "grids.0.keep_rate=[1.5]"], "`grids.0.keep_rate.0` is 1.5: Input should"),
        (["run", "--set", "grids.0.seed=zero"], "`grids.0.seed` is 'zero': Input should be a "),
        (["run", "--set", "colour=red"], "unknown key `colour`"),
        (
            ["run", "--study", "smoke", "--set", "recipes.smoke.image_size=30"],
            "image_size is 30, but must be a multiple of the host's patch size, 4, such as 28 or ",
        ),
        (
            ["run", "--set", "name=speed"],
            "`name` is 'speed': it must be none of the storage's own folders: calibration, dat",
        ),
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
        (
            ["run", "--set", "grids.0.dataset=[pets]"],
            "(give its folder with --data DIR; tokensweep check-data pets DIR --download fetches",
        ),
        (
            ["run", "--set", "grids.0.dataset=[pets]", "--data", "nowhere"],
            "nowhere --download fetches it)",
        ),
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
        "budget",
        "reserves",
        "state",
    ]
    assert len(lines) == 9
    assert lines[1].split()[1:5] == ["digits", "deit", "tiny", "1"]
    assert lines[-3] == "5 cells: 5 pending"
    assert lines[-2].startswith("left to train: ")
    assert "GPU hours" in lines[-2]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_all_that_is_to_be_fetched_and_what_it_will_take(call, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "data").mkdir()
    only = ("--only", "pets-t*-tiny-r0.5-s0-*", "--weights", "weights", "--data", "data")
    status, out, err = call("run", "--study", "pets", "--dry-run", *only)
    assert (status, err.count("\n")) == (2, 1)
    assert "2 cells: 2 pending\n" in out
    assert re.search(r"left to train: \S+ multiply-.* by the published numbers of images\n", out)
    tiny = "deit_tiny_patch16_224.fb_in1k"
    assert f"hf download timm/{tiny} --local-dir {tmp_path}/weights/{tiny}" in err
    assert f"tokensweep check-data pets {tmp_path}/data --download fetches it" in err


@pytest.mark.parametrize("gpus", [0, 2])
def test_a_dry_run_tells_what_cpus_would_take_where_there_is_no_gpu(call, monkeypatch, gpus):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    status, out, _ = call("run", "--study", "smoke", "--dry-run")
    assert status == 0
    told = re.search(
        r"left to train: (\S+) multiply-.*; this machine has no GPU: about (\S+) CPU hours "
        rf"at an assumed 2e\+10 a second and CPU, (\S+) hours with its {joblib.cpu_count()}$",
        out,
        re.MULTILINE,
    )
    assert (told is None) is (gpus > 0)
    if told:
        assert float(told[2]) == pytest.approx(float(told[1]) / 2e10 / 3600, rel=0.05)


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


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied", "theirs/study.yaml"), "theirs/study.yaml: Per"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (OSError("of pyarrow\nin two lines"), "of pyarrow in two lines"),
    ],
)
@pytest.mark.parametrize(
    "command", ["status", "cells", "measure", "report", "export", "clean", "verify"]
)
def test_a_store_that_may_not_be_used_is_one_line(call, monkeypatch, command, error, told):
    def refuse(storage):
        raise error

    monkeypatch.setattr("orchestrator.cli.find_study", refuse)
    status, out, err = call(command, "theirs")
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {told}")
    assert err.count("\n") == 1


def test_a_working_folder_that_was_removed_is_one_line(call, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    told = "error: the working folder has been removed; go to another one\n"
    assert call("run", "--dry-run") == (2, "", told)
    monkeypatch.chdir(tmp_path)
