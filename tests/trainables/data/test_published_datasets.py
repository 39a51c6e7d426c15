"""The published datasets, on miniature copies in their own formats with all their traps."""

import csv
import json
import os
import pickle
import re
import shutil
import tarfile

import numpy as np
import pytest
import torch
from published_datasets import CONCEPTS, DEVKIT, WRITERS, write_coco, write_imagenet, write_nuswide
from torchvision.datasets import imagenet as torchvision_imagenet

from trainables.data import open_dataset
from trainables.data.indexed import FileDataset

every_dataset = pytest.mark.parametrize("name", WRITERS)


@pytest.fixture
def written(name, tmp_path):
    return WRITERS[name](tmp_path / name, train=32, val=16)


def labels(split):
    """Class indices of each image, by its name."""
    targets = [split.target(index) for index in range(len(split))]
    return {
        split.name(index): (target,) if isinstance(target, int) else tuple(np.flatnonzero(target))
        for index, target in enumerate(targets)
    }


def edit(path, change):
    path.write_text(change(path.read_text()))


def complaint(name, root):
    """What opening a dataset complains of, in one line."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        open_dataset(name, root)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(root), "ROOT")


@every_dataset
class TestEvery:
    def test_opens_as_it_was_written(self, name, written):
        dataset = open_dataset(name, written.root)
        multi_label = name in ("coco", "nuswide")
        assert dataset.name == name
        assert (dataset.task, dataset.metric) == (
            ("multi_label", "map") if multi_label else ("single_label", "top1")
        )
        assert dataset.class_names == written.class_names
        assert (len(dataset.train), len(dataset.val)) == (32, 16)
        assert labels(dataset.train) == written.train
        assert labels(dataset.val) == written.val
        assert dataset.train.targets.dtype == (np.float32 if multi_label else np.int64)

    def test_every_image_is_decoded_to_rgb(self, name, written):
        dataset = open_dataset(name, written.root)
        images = [split.image(i) for split in (dataset.train, dataset.val) for i in range(16)]
        assert {image.mode for image in images} == {"RGB"}
        assert all(np.asarray(image).std() > 1 for image in images)

    def test_missing_images_are_named(self, name, written):
        for image in list(written.val)[:5]:
            (written.root / image).unlink()
        if name == "imagenet":  # Its folders are the list of its images.
            assert len(open_dataset(name, written.root).val) == 11
        else:
            first = ", ".join(list(written.val)[:3])
            assert f"has 5 missing images ({first}, ...)" in complaint(name, written.root)

    def test_a_missing_folder_is_named(self, name, written):
        assert complaint(name, written.root / "nowhere") == (
            f"folder ROOT of dataset '{name}' is missing"
        )

    def test_a_folder_must_be_given(self, name):
        with pytest.raises(ValueError, match=rf"^dataset '{name}' needs a folder, but none is"):
            open_dataset(name)


@every_dataset
class TestIndex:
    """What opening with an index folder keeps there, and when it counts."""

    @pytest.fixture
    def readings(self, monkeypatch):
        """Names of the datasets whose folders were read."""
        found = []
        read = FileDataset.read

        def counted(self, *arguments):
            found.append(self.name)
            return read(self, *arguments)

        monkeypatch.setattr(FileDataset, "read", counted)
        return found

    @pytest.fixture
    def opened(self, name, written, tmp_path):
        return lambda: open_dataset(name, written.root, tmp_path / "index")

    def test_the_second_opening_reads_the_index_alone(self, opened, written, readings):
        first, second = opened(), opened()
        assert len(readings) == 1
        assert second.class_names == first.class_names == written.class_names
        assert labels(second.train) == written.train
        assert labels(second.val) == written.val
        assert second.val.targets.dtype == first.val.targets.dtype
        assert (np.asarray(second.val.image(3)) == np.asarray(first.val.image(3))).all()

    def test_a_split_from_the_index_can_be_sent_to_other_processes(self, opened, written):
        opened()
        assert labels(pickle.loads(pickle.dumps(opened().val))) == written.val

    def test_a_new_image_is_seen(self, name, opened, written, readings):
        opened()
        image = written.root / next(iter(written.val))
        copy = image.with_name(f"copy_of_{image.name}")
        shutil.copy(image, copy)
        assert len(opened().val) == (17 if name == "imagenet" else 16)
        assert len(readings) == 2

    def test_a_removed_image_is_seen(self, opened, written, readings):
        opened()
        (written.root / next(iter(written.train))).unlink()
        try:
            assert len(opened().train) == 31
        except ValueError as error:
            assert "has 1 missing images" in str(error)  # noqa: PT017
        assert len(readings) == 2

    @pytest.mark.parametrize("damage", ["torn", "changed", "empty"])
    def test_a_damaged_index_is_made_again(
        self, opened, written, tmp_path, readings, damage, caplog
    ):
        opened()
        (index,) = (tmp_path / "index").iterdir()
        whole = index.read_bytes()
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        index.write_bytes({"torn": whole[:-9], "changed": bytes(changed), "empty": b""}[damage])
        assert labels(opened().val) == written.val
        assert len(readings) == 2
        assert f"{index} is damaged" in caplog.text
        assert index.read_bytes() == whole

    def test_a_dataset_opens_where_no_index_can_be_kept(self, name, written, tmp_path, caplog):
        (tmp_path / "file").write_text("no folder")
        dataset = open_dataset(name, written.root, tmp_path / "file" / "index")
        assert len(dataset.val) == 16
        assert "cannot be kept" in caplog.text

    def test_what_has_problems_is_not_kept(self, name, opened, written, tmp_path):
        shutil.rmtree(written.root / next(iter(written.val)).split("/")[0])
        with pytest.raises((ValueError, FileNotFoundError)):
            opened()
        assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("nabirds", "classes.txt"),
        ("coco", "annotations/instances_val2014.json"),
        ("nuswide", "nus_wid_data.csv"),
        ("imagenet", f"{DEVKIT}/meta.mat"),
    ],
)
def test_a_changed_list_makes_the_index_anew(name, changed, tmp_path):
    flat = {"flat_val": True} if name == "imagenet" else {}
    root, index_folder = WRITERS[name](tmp_path / name, **flat).root, tmp_path / "index"
    open_dataset(name, root, index_folder)
    told = []
    open_dataset(name, root, index_folder, lambda *reading: told.append(reading))
    assert told == []
    os.utime(root / changed, ns=(1, 1))
    open_dataset(name, root, index_folder, lambda *reading: told.append(reading))
    assert (f"reading {root}", 0, 1) in told


class TestImagenet:
    @pytest.fixture
    def flat(self, tmp_path):
        return write_imagenet(tmp_path / "imagenet", classes=7, flat_val=True)

    def test_the_devkit_labels_a_flat_val(self, flat):
        dataset = open_dataset("imagenet", flat.root)
        assert dataset.class_names == flat.class_names == tuple(sorted(flat.class_names))
        assert labels(dataset.val) == flat.val

    def test_a_flat_val_is_labelled_as_by_torchvision(self, flat, tmp_path, monkeypatch):
        monkeypatch.setattr(torchvision_imagenet, "_verify_archive", lambda *unused: None)
        with tarfile.open(tmp_path / "devkit.tar.gz", "w:gz") as archive:
            archive.add(flat.root / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
        torchvision_imagenet.parse_devkit_archive(tmp_path, "devkit.tar.gz")
        _, wnids = torch.load(tmp_path / "meta.bin", weights_only=True)
        dataset = open_dataset("imagenet", flat.root)
        found = labels(dataset.val)
        assert [dataset.class_names[found[image][0]] for image in sorted(found)] == wnids

    def test_the_devkits_files_may_lie_in_the_folder_itself(self, flat):
        for file in (flat.root / DEVKIT).iterdir():
            file.rename(flat.root / file.name)
        assert labels(open_dataset("imagenet", flat.root).val) == flat.val

    def test_suffixes_may_have_any_case(self, flat):
        for folder in ("val", f"train/{flat.class_names[0]}"):
            for file in (flat.root / folder).iterdir():
                file.rename(file.with_suffix(".jpeg" if folder == "val" else ".JPG"))
        dataset = open_dataset("imagenet", flat.root)
        assert (len(dataset.train), len(dataset.val)) == (32, 16)
        assert list(labels(dataset.val).values()) == list(flat.val.values())

    @pytest.mark.parametrize(
        ("file", "message"),
        [
            (
                "ILSVRC2012_validation_ground_truth.txt",
                f"file ROOT/{DEVKIT}/ILSVRC2012_validation_ground_truth.txt is missing: it holds "
                "the labels of the images in val/, which has no class folders (from the devkit)",
            ),
            (
                "meta.mat",
                f"file ROOT/{DEVKIT}/meta.mat is missing: it holds the WordNet ids of the numbers "
                "in ILSVRC2012_validation_ground_truth.txt (from the devkit)",
            ),
        ],
    )
    def test_a_missing_file_of_the_devkit_is_named(self, flat, file, message):
        (flat.root / DEVKIT / file).unlink()
        assert complaint("imagenet", flat.root) == message

    def test_a_damaged_meta_mat_is_named(self, flat):
        (flat.root / DEVKIT / "meta.mat").write_bytes(b"404 not found" * 20)
        assert f"ROOT/{DEVKIT}/meta.mat is damaged: " in complaint("imagenet", flat.root)

    @pytest.mark.parametrize("label", ["0", "1001", "n02119789", "1.5"])
    def test_a_wrong_label_line_is_named(self, flat, label):
        path = flat.root / DEVKIT / "ILSVRC2012_validation_ground_truth.txt"
        edit(path, lambda text: "".join([*text.splitlines(keepends=True)[:15], f"{label}\n"]))
        assert complaint("imagenet", flat.root) == (
            f"ROOT/{DEVKIT}/{path.name}, line 16 is '{label}', but must be a number in meta.mat"
        )

    def test_images_and_labels_of_a_flat_val_must_be_as_many(self, flat):
        path = flat.root / DEVKIT / "ILSVRC2012_validation_ground_truth.txt"
        edit(path, lambda text: "".join(text.splitlines(keepends=True)[:14]))
        assert complaint("imagenet", flat.root).endswith(
            "has 2 images without a line in ILSVRC2012_validation_ground_truth.txt "
            "(val/ILSVRC2012_val_00000015.JPEG, val/ILSVRC2012_val_00000016.JPEG)"
        )
        (flat.root / "val" / "ILSVRC2012_val_00000002.JPEG").unlink()
        assert "1 missing images (val/ILSVRC2012_val_00000002.JPEG)" in complaint(
            "imagenet", flat.root
        )

    def test_other_files_in_a_flat_val_are_named(self, flat):
        (flat.root / "val" / "ILSVRC2012_val_1.JPEG").touch()
        assert "1 files in val/ not named ILSVRC2012_val_NUMBER.JPEG (ILSVRC2012_val_1" in (
            complaint("imagenet", flat.root)
        )

    def test_a_class_that_only_the_devkit_has_is_named(self, flat):
        shutil.rmtree(flat.root / "train" / flat.class_names[-1])
        assert "2 images of classes that train/ does not have" in complaint("imagenet", flat.root)

    def test_classes_must_be_wordnet_ids(self, flat):
        (flat.root / "train" / flat.class_names[0]).rename(flat.root / "train" / "n0144076")
        assert "1 class folders not named by a WordNet id such as n01440764 (n0144076)" in (
            complaint("imagenet", flat.root)
        )


class TestNabirds:
    @pytest.fixture
    def written(self, tmp_path):
        return WRITERS["nabirds"](tmp_path / "nabirds", classes=5)

    def test_class_ids_are_sorted_as_numbers(self, written):
        text = (written.root / "image_class_labels.txt").read_text()
        ids = sorted({int(line.split()[1]) for line in text.splitlines()})
        assert ids != sorted(ids, key=str)
        dataset = open_dataset("nabirds", written.root)
        assert dataset.class_names == written.class_names
        shown = {**labels(dataset.train), **labels(dataset.val)}
        files = dict(
            line.split() for line in (written.root / "images.txt").read_text().splitlines()
        )
        for line in text.splitlines():
            uid, class_id = line.split()
            assert shown[f"images/{files[uid]}"] == (ids.index(int(class_id)),)

    def test_inner_nodes_of_the_hierarchy_are_no_classes(self, written):
        assert "22 Perching Birds" in (written.root / "classes.txt").read_text()
        assert len(open_dataset("nabirds", written.root).class_names) == 5

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("images.txt", "the path of each image"),
            ("image_class_labels.txt", "the class of each image"),
            ("train_test_split.txt", "the part of each image, 1 for training"),
            ("classes.txt", "the name of each class"),
        ],
    )
    def test_a_missing_list_is_named(self, written, file, content):
        (written.root / file).unlink()
        assert complaint("nabirds", written.root) == (
            f"file ROOT/{file} is missing: it holds {content}"
        )

    def test_missing_images_are_a_missing_folder(self, written):
        shutil.rmtree(written.root / "images")
        assert complaint("nabirds", written.root) == "folder ROOT/images is missing"

    @pytest.mark.parametrize(
        ("file", "line", "message"),
        [
            (
                "image_class_labels.txt",
                "9e3779b9-7f4a-7c15-f39c-c0605cedc835",
                "1 lines that are not an id and a value (image_class_labels.txt:1: "
                "'9e3779b9-7f4a-7c15-f39c-c0605cedc835'); 1 images without a class of classes.txt "
                "in image_class_labels.txt (9e3779b9-7f4a-7c15-f39c-c0605cedc835)",
            ),
            (
                "image_class_labels.txt",
                "9e3779b9-7f4a-7c15-f39c-c0605cedc835 2000",
                "1 images without a class of classes.txt in image_class_labels.txt "
                "(9e3779b9-7f4a-7c15-f39c-c0605cedc835)",
            ),
            (
                "train_test_split.txt",
                "9e3779b9-7f4a-7c15-f39c-c0605cedc835 2",
                "1 images without 0 or 1 in train_test_split.txt "
                "(9e3779b9-7f4a-7c15-f39c-c0605cedc835)",
            ),
            (
                "train_test_split.txt",
                "3c6ef372-fe94-f82b-e739-80c0b9db906a 1",
                "1 ids listed twice (train_test_split.txt:2: 3c6ef372-fe94-f82b-e739-80c0b9db906a)"
                "; 1 images without 0 or 1 in train_test_split.txt "
                "(9e3779b9-7f4a-7c15-f39c-c0605cedc835)",
            ),
            (
                "images.txt",
                "00000000-0000-0000-0000-000000000000 0295/0.jpg",
                "1 images without a class of classes.txt in image_class_labels.txt "
                "(00000000-0000-0000-0000-000000000000); 1 images that images.txt does not list "
                "(9e3779b9-7f4a-7c15-f39c-c0605cedc835)",
            ),
        ],
    )
    def test_a_wrong_line_is_named(self, written, file, line, message):
        edit(written.root / file, lambda text: "\n".join([line, *text.split("\n")[1:]]))
        assert complaint("nabirds", written.root) == f"dataset 'nabirds' in ROOT has {message}"

    def test_a_split_without_images_is_named(self, written):
        path = written.root / "train_test_split.txt"
        edit(path, lambda text: re.sub(" 0$", " 1", text, flags=re.MULTILINE))
        assert complaint("nabirds", written.root).endswith(
            "has 1 splits without an image (evaluation)"
        )


class TestCoco:
    @pytest.fixture
    def written(self, tmp_path):
        return write_coco(tmp_path / "coco")

    @staticmethod
    def change(written, part, change):
        def changed(text):
            document = json.loads(text)
            change(document)
            return json.dumps(document)

        edit(written.root / "annotations" / f"instances_{part}2014.json", changed)

    def test_images_without_annotations_are_left_out(self, written):
        document = json.loads((written.root / "annotations/instances_val2014.json").read_text())
        assert len(document["images"]) == 17
        assert all(
            (written.root / "val2014" / image["file_name"]).is_file()
            for image in document["images"]
        )
        assert len(open_dataset("coco", written.root).val) == 16

    def test_labels_are_those_of_three_rows_by_size(self, written):
        """As published: a row for small, medium and large objects each, and their maximum."""
        document = json.loads((written.root / "annotations/instances_train2014.json").read_text())
        columns = {category["id"]: k for k, category in enumerate(document["categories"])}
        names = {image["id"]: image["file_name"] for image in document["images"]}
        rows: dict[str, np.ndarray] = {}
        sizes = set()
        for annotation in document["annotations"]:
            row = rows.setdefault(f"train2014/{names[annotation['image_id']]}", np.zeros((3, 4)))
            size = int(np.searchsorted([32 * 32, 96 * 96], annotation["area"], side="right"))
            row[size, columns[annotation["category_id"]]] = 1
            sizes.add(size)
        assert sizes == {0, 1, 2}
        train = open_dataset("coco", written.root).train
        assert {train.name(i) for i in range(len(train))} == set(rows)
        for index in range(len(train)):
            assert (train.target(index) == rows[train.name(index)].max(axis=0)).all()

    def test_crowds_count(self, written):
        document = json.loads((written.root / "annotations/instances_val2014.json").read_text())
        crowded = {a["image_id"] for a in document["annotations"] if a["iscrowd"]}
        single = {a["image_id"] for a in document["annotations"] if not a["iscrowd"]}
        (image,) = crowded - single
        val = labels(open_dataset("coco", written.root).val)
        assert val[f"val2014/COCO_val2014_{image:012d}.jpg"]

    def test_categories_keep_the_order_of_the_file(self, written):
        for part in ("train", "val"):
            self.change(written, part, lambda document: document["categories"].reverse())
        dataset = open_dataset("coco", written.root)
        assert dataset.class_names == written.class_names[::-1]
        expected = {
            name: tuple(sorted(3 - label for label in found))
            for name, found in written.train.items()
        }
        assert labels(dataset.train) == expected

    def test_both_parts_must_have_the_same_categories(self, written):
        self.change(written, "val", lambda document: document["categories"].reverse())
        assert complaint("coco", written.root).startswith(
            "the categories in the annotations of train2014 and val2014 in ROOT differ"
        )

    @pytest.mark.parametrize("part", ["train", "val"])
    def test_a_missing_annotation_file_is_named(self, written, part):
        (written.root / "annotations" / f"instances_{part}2014.json").unlink()
        assert complaint("coco", written.root) == (
            f"file ROOT/annotations/instances_{part}2014.json is missing: "
            f"it holds the objects in the images of {part}2014/"
        )

    @pytest.mark.parametrize("part", ["train2014", "val2014"])
    def test_a_missing_folder_of_images_is_named(self, written, part):
        shutil.rmtree(written.root / part)
        assert complaint("coco", written.root) == f"folder ROOT/{part} is missing"

    @pytest.mark.parametrize(
        ("change", "where"),
        [
            (lambda text: text[: len(text) // 2], "the file: Invalid JSON"),
            (lambda text: "[]", "the file: "),
            (lambda text: text.replace('"categories"', '"classes"'), "categories: Field required"),
            (
                lambda text: text.replace('"image_id": 9,', '"image_id": null,', 1),
                r"annotations\.\d+\.image_id: Input should be a valid integer",
            ),
        ],
    )
    def test_a_damaged_annotation_file_is_named(self, written, change, where):
        path = written.root / "annotations" / "instances_val2014.json"
        edit(path, change)
        assert re.match(
            rf"ROOT/annotations/{path.name} is damaged: {where}", complaint("coco", written.root)
        )

    @pytest.mark.parametrize(
        ("key", "kind"),
        [
            ("image_id", "annotations of an image that is not listed"),
            ("category_id", "annotations of a category that is not listed"),
        ],
    )
    def test_annotations_of_nothing_known_are_named(self, written, key, kind):
        def change(document):
            document["annotations"][1][key] = 4321

        self.change(written, "val", change)
        found = f"1 {kind} (annotations/instances_val2014.json, annotations.1: 4321)"
        assert found in complaint("coco", written.root)


class TestNuswide:
    @pytest.fixture
    def written(self, tmp_path):
        return write_nuswide(tmp_path / "nuswide")

    def test_an_empty_list_is_an_image_without_labels(self, written):
        dataset = open_dataset("nuswide", written.root)
        assert dataset.class_names == CONCEPTS
        empty = [name for name, found in {**written.train, **written.val}.items() if not found]
        assert len(empty) == 6
        shown = {**labels(dataset.train), **labels(dataset.val)}
        assert all(shown[name] == () for name in empty)

    def test_labels_are_sorted_by_name_whatever_their_order(self, written):
        path = written.root / "nus_wid_data.csv"
        edit(path, lambda text: text.replace("'animal'", "'zebra'"))
        dataset = open_dataset("nuswide", written.root)
        assert dataset.class_names == ("beach", "clouds", "sky", "water", "zebra")
        with path.open(newline="") as file:
            listed = {row["path"]: row["label"] for row in csv.DictReader(file)}
        for name, found in labels(dataset.val).items():
            assert sorted(json.loads(listed[name].replace("'", '"'))) == [
                dataset.class_names[label] for label in found
            ]

    def test_the_columns_may_have_other_names(self, written):
        path = written.root / "nus_wid_data.csv"
        edit(path, lambda text: text.replace("path,label,split", "filepath,label,split_name", 1))
        assert labels(open_dataset("nuswide", written.root).val) == written.val

    def test_windows_line_ends_are_understood(self, written):
        path = written.root / "nus_wid_data.csv"
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        assert labels(open_dataset("nuswide", written.root).val) == written.val

    def test_a_missing_list_is_named(self, written):
        (written.root / "nus_wid_data.csv").unlink()
        assert complaint("nuswide", written.root) == (
            "file ROOT/nus_wid_data.csv is missing: it holds path, labels and split of each image"
        )

    @pytest.mark.parametrize("header", [None, "", "path;label;split", "path,split,label"])
    def test_a_list_without_a_header_is_refused(self, written, header):
        path = written.root / "nus_wid_data.csv"
        edit(path, lambda text: (f"{header}\n" if header else "") + text.partition("\n")[2])
        found = complaint("nuswide", written.root)
        assert found.startswith("ROOT/nus_wid_data.csv begins with ")
        assert found.endswith(
            "must begin with a header of three columns such as 'path,label,split'"
        )

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (
                "images/0.jpg,['sky',train",
                "label is \"['sky'\", but must be a list of names such as ['clouds', 'sky']",
            ),
            (
                "images/0.jpg,\"['sky', 'water'\",train",
                "label is \"['sky', 'water'\", but must be a list of names such as",
            ),
            ("images/0.jpg,\"['sky', 'water'],train", "2 columns, but must be path, list of"),
            ("images/0.jpg,['sky', 'water'],train", "4 columns, but must be path, list of"),
            ("images/0.jpg,sky,train", "label is 'sky', but must be a list of names"),
            ("images/0.jpg,[1],train", "label is '[1]', but must be a list of names"),
            ("images/0.jpg,__import__('os'),train", "but must be a list of names"),
            ("images/0.jpg,['sky'],test", "split is 'test', but must be 'train' or 'val'"),
        ],
    )
    def test_a_broken_line_is_named(self, written, line, message):
        path = written.root / "nus_wid_data.csv"
        edit(path, lambda text: "\n".join([*text.split("\n")[:20], line, *text.split("\n")[20:]]))
        found = complaint("nuswide", written.root)
        assert found.startswith(
            "dataset 'nuswide' in ROOT has 1 lines that cannot be used (nus_wid_data.csv:21: "
        )
        assert message in found
