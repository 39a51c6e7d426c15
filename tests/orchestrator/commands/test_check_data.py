"""`tokensweep check-data` on damaged copies of the published datasets: it says what is wrong."""

import json
import os
import shutil
from dataclasses import replace

import pytest
from published_datasets import DEVKIT, WRITERS, write_imagenet
from torchvision_archives import ARCHIVES, register

from orchestrator.cli import main
from orchestrator.commands import check_data
from trainables.data import torchvision_sets

LABELS = "image_class_labels.txt"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


@pytest.fixture
def call(capsys, monkeypatch):
    """Check a dataset's folder; return the status, the lines printed and those on stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(name, root, *options):
        with pytest.raises(SystemExit) as ended:
            main(["check-data", name, str(root), *options])
        printed = capsys.readouterr()
        out = printed.out.replace(str(root), "ROOT").splitlines()
        return ended.value.code or 0, out, printed.err

    return call


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a function that writes a whole copy of a dataset, once for all tests."""
    found = {}

    def write(name):
        if name not in found:
            root = tmp_path_factory.mktemp(name)
            writer = write_imagenet if name == "flat" else WRITERS[name]
            found[name] = writer(root, **({"flat_val": True} if name == "flat" else {}))
        return found[name]

    return write


@pytest.fixture
def copy(whole, tmp_path):
    """Return a function that copies a whole dataset to damage it."""
    return lambda name: shutil.copytree(whole(name).root, tmp_path / name)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shorten(path):
    path.write_bytes(path.read_bytes()[:-100])


def text(path):
    path.write_text("404 not found")


def empty(path):
    path.write_bytes(b"")


def first_line(line):
    return lambda path: path.write_text("\n".join([line, *path.read_text().split("\n")[1:]]))


def last_line(line):
    return lambda path: path.write_text(f"{path.read_text()}{line}\n")


def without_images(path):
    for file in path.iterdir():
        file.unlink()


def unlisted_image(path):
    document = json.loads(path.read_text())
    document["annotations"][0]["image_id"] = 7
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("name", WRITERS)
def test_a_whole_dataset_is_fine_and_counted(call, whole, name):
    status, out, _ = call(name, whole(name).root)
    assert status == 0
    counts = [line.split() for line in out if line.startswith(("train ", "val "))]
    classes = "5" if name == "nuswide" else "4"
    assert counts == [["train", "32", classes], ["val", "16", classes]]
    assert out[0] == f"{name} in ROOT"
    assert out[-1] == "no problems found"


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("imagenet", ["1,281,167", "50,000", "1,000"]),
        ("nabirds", ["23,929", "24,633", "555"]),
        ("coco", ["82,081", "40,137", "80"]),
        ("nuswide", ["about 154,000", "about 66,000", "81"]),
    ],
)
def test_other_counts_than_the_published_ones_are_noted(call, whole, name, notes):
    _, out, _ = call(name, whole(name).root)
    found = [line for line in out if line.startswith("note: ")]
    kinds = ("images to train on", "images to evaluate on", "classes")
    assert [line.split(", but ")[1] for line in found] == [f"{n} were published" for n in notes]
    assert all(kind in line for kind, line in zip(kinds, found, strict=True))


@pytest.mark.parametrize(
    ("name", "file", "damage", "message"),
    [
        ("imagenet", "train", shutil.rmtree, "folder ROOT/train is missing"),
        (
            "flat",
            f"{DEVKIT}/{GROUND_TRUTH}",
            lambda path: path.unlink(),
            f"file ROOT/{DEVKIT}/{GROUND_TRUTH} is missing: it holds the labels",
        ),
        (
            "flat",
            f"{DEVKIT}/meta.mat",
            lambda path: path.unlink(),
            f"file ROOT/{DEVKIT}/meta.mat is missing: it holds the WordNet ids",
        ),
        ("flat", f"{DEVKIT}/meta.mat", cut, f"ROOT/{DEVKIT}/meta.mat is damaged: "),
        (
            "flat",
            f"{DEVKIT}/{GROUND_TRUTH}",
            first_line("one"),
            f"ROOT/{DEVKIT}/{GROUND_TRUTH}, line 1 is 'one', but must be a number in meta.mat",
        ),
        ("nabirds", "images.txt", lambda path: path.unlink(), "file ROOT/images.txt is missing"),
        ("nabirds", "images", shutil.rmtree, "folder ROOT/images is missing"),
        (
            "coco",
            "annotations/instances_val2014.json",
            lambda path: path.unlink(),
            "file ROOT/annotations/instances_val2014.json is missing: it holds the objects",
        ),
        (
            "coco",
            "annotations/instances_val2014.json",
            cut,
            "ROOT/annotations/instances_val2014.json is damaged: the file: Invalid JSON",
        ),
        ("coco", "val2014", shutil.rmtree, "folder ROOT/val2014 is missing"),
        ("nuswide", "nus_wid_data.csv", lambda path: path.unlink(), "file ROOT/nus_wid_data.csv"),
        ("nuswide", "nus_wid_data.csv", empty, "ROOT/nus_wid_data.csv begins with '', but must"),
    ],
)
def test_what_makes_a_dataset_unreadable_is_named(call, copy, name, file, damage, message):
    root = copy(name)
    damage(root / file)
    status, out, err = call("imagenet" if name == "flat" else name, root)
    assert (status, err) == (1, "")
    assert out[-1].startswith(message)


@pytest.mark.parametrize(
    ("name", "file", "damage", "kind", "case"),
    [
        (
            "imagenet",
            "val/n02119789",
            without_images,
            "1 class folders without an image:",
            "val/n02119789",
        ),
        (
            "imagenet",
            "val/n01440764",
            lambda path: path.mkdir(),
            "1 classes in val/ that train/ does not have:",
            "n01440764",
        ),
        (
            "flat",
            "val/ILSVRC2012_val_00000005.JPEG",
            lambda path: path.unlink(),
            "1 missing images:",
            "val/ILSVRC2012_val_00000005.JPEG",
        ),
        (
            "flat",
            f"{DEVKIT}/{GROUND_TRUTH}",
            cut,
            f"8 images without a line in {GROUND_TRUTH}:",
            "val/ILSVRC2012_val_00000009.JPEG",
        ),
        (
            "nabirds",
            LABELS,
            first_line("3c6ef372-fe94-f82b-e739-80c0b9db906a"),
            "1 lines that are not an id and a value:",
            f"{LABELS}:1: '3c6ef372-fe94-f82b-e739-80c0b9db906a'",
        ),
        (
            "nabirds",
            "images",
            lambda path: shutil.rmtree(path / "0817"),
            "12 missing images:",
            "images/0817/",
        ),
        (
            "coco",
            "annotations/instances_train2014.json",
            unlisted_image,
            "1 annotations of an image that is not listed:",
            "annotations/instances_train2014.json, annotations.0: 7",
        ),
        (
            "coco",
            "val2014/COCO_val2014_000000000009.jpg",
            lambda path: path.unlink(),
            "1 missing images:",
            "val2014/COCO_val2014_000000000009.jpg",
        ),
        (
            "nuswide",
            "nus_wid_data.csv",
            last_line("images/new.jpg,\"['sky', 'water\",train"),
            "1 lines that cannot be used:",
            "nus_wid_data.csv:50: label is \"['sky', 'water\", but must be a list of names",
        ),
        (
            "nuswide",
            "nus_wid_data.csv",
            last_line("images/new.jpg,['sky'],train"),
            "1 missing images:",
            "images/new.jpg",
        ),
    ],
)
def test_what_is_wrong_with_some_images_is_named(call, copy, name, file, damage, kind, case):
    root = copy(name)
    damage(root / file)
    status, out, err = call("imagenet" if name == "flat" else name, root)
    assert (status, err) == (1, "")
    assert "no problems found" not in out
    assert out[out.index(kind) + 1].startswith(f"  {case}")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shorten, "truncated"),
        (text, "cannot identify image file"),
        (empty, "cannot identify image"),
    ],
)
@pytest.mark.parametrize("name", WRITERS)
def test_images_that_cannot_be_decoded_are_named_and_counted(
    call, copy, whole, name, damage, reason
):
    root = copy(name)
    images = [*list(whole(name).train)[:2], list(whole(name).val)[-1]]
    for image in images:
        damage(root / image)
    status, out, _ = call(name, root)
    assert status == 1
    at = out.index("3 images that cannot be decoded:")
    told = dict(line.strip().split(": ", maxsplit=1) for line in out[at + 1 :])
    assert told.keys() == set(images)
    assert all(reason in word for word in told.values())


@pytest.fixture
def several_processes(monkeypatch):
    """Decode 8 images at a time, in two processes."""
    monkeypatch.setattr(check_data, "IMAGES_AT_A_TIME", 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})


def test_several_processes_find_the_same_images(call, copy, whole, several_processes):
    root = copy("imagenet")
    images = [*list(whole("imagenet").train)[:1], *list(whole("imagenet").val)[-2:]]
    for image in images:
        text(root / image)
    status, out, _ = call("imagenet", root)
    assert status == 1
    at = out.index("3 images that cannot be decoded:")
    assert [line.split(":")[0].strip() for line in out[at + 1 :]] == sorted(images)


def dies(part):
    os._exit(1)


def test_a_process_that_dies_ends_the_check(call, whole, several_processes, monkeypatch):
    monkeypatch.setattr(check_data, "undecodable", dies)
    status, _, err = call("imagenet", whole("imagenet").root)
    assert (status, err) == (
        2,
        "error: a process that decodes images died, perhaps because memory ran out\n",
    )


def test_several_kinds_of_problems_are_all_told(call, copy):
    root = copy("coco")
    images = sorted((root / "train2014").iterdir())
    for image in images[:12]:
        image.unlink()
    text(images[12])
    status, out, _ = call("coco", root)
    assert status == 1
    missing = out.index("12 missing images:")
    assert out[missing + 1] == f"  train2014/{images[0].name}"
    assert out[missing + 11] == "  ... and 2 more"
    assert out[missing + 12] == "1 images that cannot be decoded:"
    assert out[missing + 13].startswith(f"  train2014/{images[12].name}: cannot identify")


def test_a_split_without_images_is_named(call, copy):
    root = copy("nuswide")
    listed = root / "nus_wid_data.csv"
    listed.write_text(listed.read_text().replace(",val\n", ",train\n"))
    status, out, _ = call("nuswide", root)
    assert status == 1
    assert out[-2:] == ["1 splits without an image:", "  evaluation"]


class TestDownload:
    """Sets that torchvision can download."""

    @pytest.fixture
    def fetched(self, monkeypatch):
        """What a download writes, instead of torchvision's."""
        pets = replace(torchvision_sets.FAMILY["pets"], download=ARCHIVES["pets"])
        monkeypatch.setitem(torchvision_sets.FAMILY, "pets", pets)

    def test_what_was_downloaded_is_checked(self, call, fetched, tmp_path):
        status, out, _ = call("pets", tmp_path / "data", "--download")
        assert status == 0
        assert out[0] == "downloading pets to ROOT, if it is not there"
        assert ["train", "9", "3"] in [line.split() for line in out]
        assert out[-1] == "no problems found"

    def test_nothing_is_downloaded_without_being_asked(self, call, fetched, tmp_path):
        status, out, _ = call("pets", tmp_path)
        assert status == 1
        assert out[-1] == "ROOT/oxford-iiit-pet/annotations/trainval.txt is missing"

    def test_what_goes_wrong_is_one_line(self, call, tmp_path, monkeypatch):
        def refused(root):
            raise OSError("<urlopen error no\nnetwork>")

        pets = torchvision_sets.FAMILY["pets"]
        monkeypatch.setitem(torchvision_sets.FAMILY, "pets", replace(pets, download=refused))
        status, _, err = call("pets", tmp_path, "--download")
        assert status == 2
        assert err == "error: pets cannot be downloaded: <urlopen error no network>\n"

    def test_others_are_refused_with_those_that_can(self, call, copy):
        status, _, err = call("nabirds", copy("nabirds"), "--download")
        assert status == 2
        assert "DATASET is 'nabirds', but must be one of: aircraft, cifar10, " in err


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_arrays_are_counted(call, name, tmp_path, monkeypatch):
    labels = ARCHIVES[name](tmp_path)
    register(name, tmp_path, monkeypatch)
    status, out, _ = call(name, tmp_path)
    assert status == 0
    counts = [line.split()[:2] for line in out if line.startswith(("train ", "val "))]
    assert counts == [["train", str(len(labels.train))], ["val", str(len(labels.val))]]


def test_a_folder_of_datasets_may_be_given(call, copy):
    root = copy("nabirds")
    status, out, _ = call("nabirds", root.parent)
    assert (status, out[0]) == (0, "nabirds in ROOT/nabirds")


@pytest.mark.parametrize(
    ("name", "root", "message"),
    [
        ("minst", ".", "error: DATASET is 'minst', but must be one of: aircraft, cifar10,"),
        ("digits", ".", "error: DATASET is 'digits', but must be one of: aircraft, cifar10,"),
        ("coco", "nowhere", "error: DIR is 'nowhere', but must be the folder of dataset 'coco'"),
    ],
)
def test_bad_arguments_are_one_line(call, name, root, message):
    status, out, err = call(name, root)
    assert (status, out) == (2, [])
    assert message in err
    assert err.count("\n") == 1
