"""`tokensweep init`: from a folder of images to a study file that runs."""

import itertools
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from orchestrator.commands import init_study
from orchestrator.study.expansion import expand
from orchestrator.study.study import load_study
from trainables.data import open_dataset
from trainables.recipe import Recipe

HOST = ("--host", "digits_{capacity}_patch4_32")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path):
    """Write images of classes into a folder; return the folder."""

    def write(name="birds", classes=("crow", "wren"), each=10, side=24):
        for number, one in enumerate(classes):
            for image in range(each):
                path = tmp_path / name / one / f"{image}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (side + image, side), (number, image, 9)).save(path)
        return tmp_path / name

    return write


def test_the_study_holds_what_the_folder_has(call, write):
    status, out, _ = call("init", write(), *HOST)
    assert status == 0
    cells = expand(load_study("./birds.yaml"))
    assert {cell.dataset for cell in cells} == {"folder.birds"}
    methods = ("topk", "evit", "tome", "atc", "random")
    wanted = {("deit", 1.0), *itertools.product(methods, (0.5, 0.7))}
    assert {(cell.method, cell.keep_rate) for cell in cells} == wanted
    assert "# (16 to train on, 4 to evaluate on, 2 classes)" in Path("birds.yaml").read_text()
    assert "shorter sides: 24 to 24 pixels, half of them 24 or more" in out
    assert "images to train on a class: 8 of crow to 8 of crow" in out
    assert any(line.startswith("11 cells; left to train: ") and "hours" in line for line in out)


def test_what_it_prints_last_is_the_command_that_runs_it(call, write):
    _, out, _ = call("init", write("my birds (2024)"), *HOST)
    assert out[-1].startswith("next: tokensweep run --study my_birds_2024.yaml --data ")
    _, *command = shlex.split(out[-1].removeprefix("next: "))
    small = ("--set", "recipes.own.image_size=32", "--set", "recipes.own.crop_ratio=1.0")
    status, out, _ = call(*command, "--dry-run", *small)
    assert status == 0
    assert "11 cells: 11 pending" in out


@pytest.mark.parametrize(
    ("images", "recipe", "picks"),
    [(399, "probe", "val"), (400, "probe", "holdout"), (500, "small_data", "holdout"),
     (50_001, "paper", "holdout")],
)  # fmt: skip
def test_recipe_and_holdout_follow_the_number_of_images(images, recipe, picks, index):
    document = yaml.safe_load(text(index(images), 224))
    assert document["recipes"]["own"]["base"] == recipe
    assert document["recipes"]["own"]["select_on"] == picks


@pytest.mark.parametrize(("side", "cached"), [(511, False), (512, True)])
def test_large_images_are_cached(side, cached, index):
    assert ("cache" in yaml.safe_load(text(index(600), side))["recipes"]["own"]) == cached


@pytest.mark.parametrize(("gpus", "capacity"), [(0, "tiny"), (1, "small")])
def test_the_host_is_as_large_as_the_machine_allows(gpus, capacity, index, monkeypatch):
    monkeypatch.setattr(init_study.torch.cuda, "device_count", lambda: gpus)
    document = yaml.safe_load(text(index(600), 224))
    assert document["defaults"]["capacity"] == [capacity]
    assert document["recipes"]["own"]["host"] == Recipe().host
    assert list(document.get("resources", {})) == [capacity] * gpus


@pytest.fixture
def index(write):
    """Return a function that makes an index with so many training images."""
    read = open_dataset("folder", write())

    def index(images):
        targets = np.zeros(images, dtype=np.int64)
        names = np.resize(read.train.names, images)
        train = type(read.train)(targets, read.train.root, names)
        return init_study.Index(read.class_names, train, read.val)

    return index


def text(index, side):
    options = init_study.InitOptions(Path("birds"))
    return init_study.study_text("birds", options, index, np.array([side]))


@pytest.mark.parametrize(
    ("folder", "name"),
    [("Vögel", "Vogel"), ("鸟", "images"), (".cache", "cache"), ("speed", "speed_study"),
     ("a b/c d", "c_d")],
)  # fmt: skip
def test_any_folder_gives_a_name(folder, name, tmp_path):
    (tmp_path / folder).mkdir(parents=True)
    assert init_study.study_name(tmp_path / folder) == name


def test_a_class_of_the_folders_name_is_not_taken_for_the_dataset(call, write):
    _, out, _ = call("init", write("birds", ("birds", "crow")), *HOST)
    assert "wrote birds_study.yaml" in out
    assert {c.dataset for c in expand(load_study("./birds_study.yaml"))} == {"folder.birds_study"}


def test_problems_are_named_and_nothing_is_written(call, write, tmp_path):
    folder = write()
    (folder / "wren/3.png").write_bytes(b"no image")
    status, out, _ = call("init", folder, *HOST)
    assert status == 1
    assert "1 images that cannot be decoded:" in out
    assert out[-1] == f"mend the folder, then type again: tokensweep init {folder}"
    assert [path.name for path in tmp_path.iterdir()] == ["birds"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "DIR is 'nowhere', but must be the folder of dataset 'folder.nowhere'"),
        (["birds", "--to", "there.yaml"], "there.yaml is there already; remove it or name another"),
        (["birds", "--host", "resnet18"], "host is 'resnet18', but must be a VisionTransformer"),
    ],
)
def test_what_cannot_be_done_is_one_line(call, write, tmp_path, arguments, message):
    write()
    (tmp_path / "there.yaml").write_text("mine")
    status, _, err = call("init", *arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err
    assert (tmp_path / "there.yaml").read_text() == "mine"
    assert not (tmp_path / "birds.yaml").exists()


def test_missing_weights_are_named_beside_the_hours(call, write, tmp_path):
    (tmp_path / "weights").mkdir()
    status, out, _ = call("init", write(), "--weights", "weights")
    assert status == 0
    (missing,) = [line for line in out if line.startswith("to be had before it runs: ")]
    assert "hf download timm/deit_tiny_patch16_224.fb_in1k" in missing
    assert out[-1].endswith(f"--weights {tmp_path / 'weights'}")


def paint(path, *colours):
    """Write images, each of one colour, as PNG or as what else its name says."""
    for number, colour in enumerate(colours):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), colour).save(str(path).format(number))


def test_a_folder_without_classes_gives_a_study_of_features(call, tmp_path):
    paint(tmp_path / "snaps" / "{}.png", "red", "green", "blue")
    status, out, _ = call("init", "snaps", "--host", "digits_tiny_patch4_32")
    assert status == 0
    assert "a study of features: labels are not needed, and nothing is trained" in out
    assert not any("to train on a class" in line for line in out)
    cells = expand(load_study("./snaps.yaml"))
    assert {cell.dataset for cell in cells} == {"images.snaps"}
    assert {(cell.recipe.task, cell.recipe.epochs) for cell in cells} == {("embedding", 0)}
    assert {cell.host for cell in cells} == {"digits_tiny_patch4_32"}
    assert "(3 of them)" in Path("snaps.yaml").read_text()
    _, *command = shlex.split(out[-1].removeprefix("next: "))
    small = ("--set", "recipes.own.image_size=32")
    status, out, _ = call(*command, "--dry-run", *small)
    assert status == 0
    assert "16 cells: 16 pending" in out


def test_features_of_a_folder_of_classes_are_studied_where_that_is_asked_for(call, write):
    status, _, _ = call("init", write(), "--embedding", "--host", "digits_tiny_patch4_32")
    assert status == 0
    assert {c.dataset for c in expand(load_study("./birds.yaml"))} == {"images.birds"}


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        ((), False),
        (("one",), False),
        (("one", "two"), True),
        (("val",), True),
        ((".a", "b"), False),
    ],
)
def test_two_folders_or_a_split_are_classes(folders, classes, tmp_path):
    for folder in folders:
        (tmp_path / folder).mkdir()
    assert init_study.has_classes(tmp_path) == classes


def test_an_evaluation_image_that_is_trained_on_is_named(call, tmp_path):
    root = tmp_path / "birds"
    paint(root / "train/crow/{}.png", "red", "green")
    paint(root / "train/wren/{}.bmp", "blue", "white", "blue")
    paint(root / "val/crow/{}.bmp", "red", "black")  # Other bytes, the same pixels.
    paint(root / "val/wren/{}.png", "pink")
    _, out, _ = call("init", root, *HOST)
    assert (
        "note: 1 of the images to evaluate on have the pixels of one to train on "
        "(val/crow/0.bmp those of train/crow/0.png), so accuracy would be too high; "
        "2 images in all are the same as another"
    ) in out


def test_images_of_features_that_are_the_same_are_named(call, tmp_path):
    paint(tmp_path / "snaps/{}.png", "red", "red", "blue")
    _, out, _ = call("init", "snaps", "--host", "digits_tiny_patch4_32")
    assert (
        "note: 1 images have the pixels of another (1.png those of 0.png), so they are not "
        "independent"
    ) in out


def test_nothing_is_said_of_images_that_differ(call, write):
    _, out, _ = call("init", write(), *HOST)
    assert not any("the pixels of" in line for line in out)
