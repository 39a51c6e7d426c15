"""Folders of image files: photographs in every mode, and a clear word on what is wrong."""

import pickle
import re
import shutil
import traceback

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from trainables.data import open_dataset
from trainables.data.image_files import UnreadableImage
from trainables.data.loader import eval_loader


@pytest.fixture(scope="module")
def photographs():
    names = {"temple": "china.jpg", "flower": "flower.jpg"}
    return {
        name: Image.fromarray(load_sample_image(file)).resize((96, 64), Image.Resampling.BOX)
        for name, file in names.items()
    }


@pytest.fixture
def root(tmp_path, photographs):
    for part in ("train", "val"):
        for name, photograph in photographs.items():
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(2):
                photograph.save(folder / f"{i}.png")
    return tmp_path


def image_named(split, file):
    names = [split.name(index) for index in range(len(split))]
    return split.image([name.split("/")[-1] for name in names].index(file))


def pixels(image):
    return np.asarray(image).astype(float)


def test_classes_are_the_sorted_folders_of_train(root, photographs):
    dataset = open_dataset("folder", root)
    assert (dataset.name, dataset.task, dataset.metric) == ("folder", "single_label", "top1")
    assert dataset.class_names == ("flower", "temple")
    assert [dataset.train.target(i) for i in range(len(dataset.train))] == [0, 0, 1, 1]
    assert (pixels(dataset.train.image(0)) == pixels(photographs["flower"])).all()
    assert (pixels(dataset.val.image(3)) == pixels(photographs["temple"])).all()


def test_a_class_may_be_missing_from_val(root):
    shutil.rmtree(root / "val" / "flower")
    val = open_dataset("folder", root).val
    assert [val.target(i) for i in range(len(val))] == [1, 1]


def test_files_that_are_no_images_are_left_out(root):
    for name in ("notes.txt", ".hidden.png", "._0.png"):
        (root / "train" / "flower" / name).write_bytes(b"not an image")
    (root / "train" / ".cache").mkdir()
    assert len(open_dataset("folder", root).train) == 4


@pytest.mark.parametrize(
    ("file", "mode", "tolerance"),
    [
        ("upper.JPG", "RGB", 8),
        ("upper.PNG", "RGB", 0),
        ("cmyk.jpeg", "CMYK", 8),
        ("alpha.png", "RGBA", 0),
        ("palette.gif", "P", 0),
        ("lossless.webp", "RGB", 8),
        ("map.bmp", "RGB", 0),
        ("scan.tiff", "RGB", 0),
    ],
)
def test_colour_images_of_any_mode_are_decoded_to_rgb(root, photographs, file, mode, tolerance):
    stored = photographs["flower"].convert(mode)
    stored.save(root / "train" / "flower" / file)
    decoded = image_named(open_dataset("folder", root).train, file)
    assert decoded.mode == "RGB"
    assert np.abs(pixels(decoded) - pixels(stored.convert("RGB"))).mean() <= tolerance


def test_a_palette_with_transparency_is_decoded_without_a_warning(root, photographs):
    alphas = bytes([0, 128] + [255] * 62)
    path = root / "train" / "flower" / "0.png"
    photographs["flower"].quantize(64).save(path, transparency=alphas)
    decoded = pixels(open_dataset("folder", root).train.image(0))
    assert np.abs(decoded - pixels(photographs["flower"])).mean() < 12


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_images_keep_their_range(root, photographs, bits):
    grey = np.asarray(photographs["flower"].convert("L"))
    stored = grey if bits == 8 else grey.astype(np.uint16) * 257
    Image.fromarray(stored).save(root / "train" / "flower" / "0.png")
    decoded = pixels(open_dataset("folder", root).train.image(0))
    assert (decoded == grey[..., None]).all()


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "missing"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_image_that_cannot_be_decoded_is_named(root, photographs, damage, suffix):
    path = root / "train" / "flower" / f"damaged.{suffix}"
    photographs["flower"].save(path)
    content = path.read_bytes()
    split = open_dataset("folder", root).train
    if damage == "missing":
        path.unlink()
    else:
        truncated = content[: len(content) // 2]
        path.write_bytes({"truncated": truncated, "text": b"404 not found", "empty": b""}[damage])
    with pytest.raises(UnreadableImage, match=f"^{re.escape(str(path))} cannot be decoded: "):
        image_named(split, path.name)


def test_a_loader_process_names_the_image_too(root):
    path = root / "val" / "flower" / "1.png"
    path.write_bytes(b"404 not found")
    val = open_dataset("folder", root).val
    with pytest.raises(UnreadableImage, match=re.escape(str(path))) as caught:
        list(eval_loader(val, np.array, batch_size=2, num_workers=1))
    # Left to the garbage collector, a loader that an error holds takes 5 s to end its process.
    traceback.clear_frames(caught.tb)


def test_splits_can_be_sent_to_other_processes(root):
    val = open_dataset("folder", root).val
    copy = pickle.loads(pickle.dumps(val))
    assert (pixels(copy.image(1)) == pixels(val.image(1))).all()


def test_a_folder_must_be_given():
    with pytest.raises(ValueError, match=r"^dataset 'folder' needs a folder, but none is given$"):
        open_dataset("folder")


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_missing_split_is_named(root, part):
    shutil.rmtree(root / part)
    with pytest.raises(
        FileNotFoundError, match=f"^folder {re.escape(str(root / part))} is missing$"
    ):
        open_dataset("folder", root)


def test_a_split_without_classes_is_named(root):
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    with pytest.raises(ValueError, match=f"^{re.escape(str(root / 'train'))} has no folder, but"):
        open_dataset("folder", root)


def test_classes_that_only_val_has_are_named(root):
    for name in ("zebra", "ape"):
        (root / "val" / name).mkdir()
    with pytest.raises(
        ValueError, match=r"2 classes in val/ that train/ does not have \(ape, zebra\)$"
    ):
        open_dataset("folder", root)


def test_all_empty_class_folders_are_named(root):
    for name in ("zebra", "ape"):
        (root / "train" / name).mkdir()
    with pytest.raises(ValueError, match=r"2 class folders without an image \(train/ape, train/z"):
        open_dataset("folder", root)


class TestClassesAlone:
    """Folders of classes without `train` and `val`."""

    @pytest.fixture
    def root(self, tmp_path):
        for name, count in (("cat", 11), ("dog", 5)):
            for number in range(count):
                path = tmp_path / "pets" / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8)).save(path)
        return tmp_path / "pets"

    def test_a_fifth_of_each_class_is_evaluated(self, root):
        dataset = open_dataset("folder", root)
        assert dataset.class_names == ("cat", "dog")
        counts = [np.bincount(split.targets).tolist() for split in (dataset.train, dataset.val)]
        assert counts == [[8, 4], [3, 1]]
        names = [split.names.tolist() for split in (dataset.train, dataset.val)]
        everything = sorted(f"{path.parent.name}/{path.name}".encode() for path in root.glob("*/*"))
        assert sorted([*names[0], *names[1]]) == everything
        assert dataset.notes[0].startswith("4 images held out for evaluation, as there is no val/")

    def test_which_ones_depends_on_no_other_class(self, root):
        before = open_dataset("folder", root).val.names.tolist()
        Image.new("RGB", (8, 8)).save(root / "dog/new.png")
        after = open_dataset("folder", root).val.names.tolist()
        assert [name for name in after if b"cat" in name] == before[:3]

    def test_a_class_of_one_image_and_images_of_no_class_are_named(self, root):
        (root / "cow").mkdir()
        Image.new("RGB", (8, 8)).save(root / "cow/0.png")
        told = r"1 classes with a single image, which cannot be split \(cow\)"
        with pytest.raises(ValueError, match=told):
            open_dataset("folder", root)
        (root / "cow/0.png").rename(root / "stray.png")
        (root / "cow").rmdir()
        notes = open_dataset("folder", root).notes
        assert notes[1] == "1 images left out, which are in no class's folder (stray.png)"

    def test_another_name_of_val_is_told(self, root):
        (root / "cat").rename(root / "train")
        (root / "dog").rename(root / "test")
        (root / "train/a").mkdir()
        told = rf"val is missing; if {root}/test is to be evaluated on, name it val$"
        with pytest.raises(FileNotFoundError, match=told):
            open_dataset("folder", root)

    def test_many_folders_have_names_of_their_own(self, root):
        dataset = open_dataset("folder.my_pets", root)
        assert (dataset.name, len(dataset.val)) == ("folder.my_pets", 4)
        with pytest.raises(ValueError, match=r"^dataset is 'digits\.mine', but must be one of"):
            open_dataset("digits.mine", root)
