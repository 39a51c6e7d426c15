"""Any folder of images: all of them, at any depth, with labels where every one is in a folder."""

import pytest
from PIL import Image

from trainables.data import open_dataset


@pytest.fixture
def write(tmp_path):
    def write(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(path)
        return tmp_path

    return write


def names(dataset):
    return [dataset.val.name(index) for index in range(len(dataset.val))]


def test_images_lie_at_any_depth_and_have_no_labels(write):
    root = write("b.png", "a.JPG", "trip/day/1.png")
    (root / "notes.txt").write_text("")
    dataset = open_dataset("images.mine", root)
    assert (dataset.name, dataset.task, dataset.metric) == ("images.mine", "embedding", "cosine")
    assert names(dataset) == ["a.JPG", "b.png", "trip/day/1.png"]
    assert dataset.class_names == ()
    assert dataset.val.targets.tolist() == [0, 0, 0]
    assert dataset.notes == ("1 files left out, whose suffix is none of an image (notes.txt)",)
    assert dataset.val.image(2).size == (8, 8)


def test_outermost_folders_are_labels_below_the_splits(write):
    dataset = open_dataset("images", write("train/wren/1.png", "train/crow/x/2.png",
                                           "val/wren/3.png"))  # fmt: skip
    assert dataset.class_names == ("crow", "wren")
    assert dataset.val.targets.tolist() == [0, 1, 1]


def test_a_single_image_cannot_be_compared(write):
    with pytest.raises(ValueError, match="1 folders with a single image, which has no other"):
        open_dataset("images", write("a.png"))


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="splits without an image"):
        open_dataset("images", tmp_path)


def test_an_index_is_read_again_where_a_folder_has_changed(write, tmp_path_factory):
    root, kept = write("a.png", "b.png"), tmp_path_factory.mktemp("indices")
    assert len(open_dataset("images", root, kept).val) == 2
    assert len(open_dataset("images", root, kept).val) == 2
    write("more/c.png")
    assert names(open_dataset("images", root, kept)) == ["a.png", "b.png", "more/c.png"]
