"""Pictures for the report: just what a model sees, so that patches lie where they belong."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from trainables.cell.cell import Cell
from trainables.data import open_dataset
from trainables.data.image_files import UnreadableImage
from trainables.data.transforms import eval_transform
from trainables.pictures import eval_pictures
from trainables.recipe import Recipe


def cell_on(dataset, **recipe):
    return Cell(
        dataset=dataset, method="topk", capacity="tiny", keep_rate=0.5, reduction_loc=(3,),
        recipe=Recipe(**recipe),
    )  # fmt: skip


def decoded(uri):
    kind, _, data = uri.partition(";base64,")
    return kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@pytest.fixture
def root(tmp_path):
    """A dataset with one photograph of 300 x 200, black but for a white patch in its centre crop.

    The crop is x 50..250 of the whole height, scaled by 1.12 to 224: in the grid of 14 x 14
    patches it is the one in row 3 and column 10.
    """
    pixels = np.zeros((200, 300, 3), np.uint8)
    row, column = 3, 10
    top, left = round(row * 16 / 1.12), 50 + round(column * 16 / 1.12)
    pixels[top : top + 14, left : left + 14] = 255
    for part in ("train", "val"):
        (tmp_path / part / "dot").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / part / "dot" / "0.png")
    return tmp_path


def test_a_patch_lies_where_the_model_sees_it(root):
    (uri,), names = eval_pictures(cell_on("folder", image_size=224, crop_ratio=1.0), [0], root)
    kind, pixels = decoded(uri)
    assert (kind, pixels.shape, names) == ("data:image/jpeg", (224, 224, 3), ("dot",))
    patches = pixels[..., 0].reshape(14, 16, 14, 16).mean(axis=(1, 3))
    assert np.unravel_index(patches.argmax(), patches.shape) == (3, 10)
    assert patches.max() > 200
    assert np.sort(patches.ravel())[-2] < 30


@pytest.mark.parametrize("dataset", ["digits", "digits_multi"])
def test_small_pictures_are_exactly_what_the_model_sees(dataset):
    cell = cell_on(dataset, image_size=32, crop_ratio=1.0)
    uris, names = eval_pictures(cell, [5, 2], None)
    opened = open_dataset(dataset)
    transform = eval_transform(cell.recipe, opened.task)
    assert names == opened.class_names
    for uri, image in zip(uris, (5, 2), strict=True):
        kind, pixels = decoded(uri)
        assert kind == "data:image/png"
        seen = transform(opened.val.image(image)).permute(1, 2, 0)
        assert np.array_equal(pixels, seen)


def test_large_pictures_are_reduced(root):
    cell = cell_on("folder", image_size=448, crop_ratio=1.0)
    assert decoded(eval_pictures(cell, [0], root)[0][0])[1].shape == (224, 224, 3)


def test_a_dataset_that_is_not_at_hand_is_an_error_that_says_so(root, tmp_path):
    cell = cell_on("folder")
    with pytest.raises(ValueError, match="folder"):
        eval_pictures(cell, [0], None)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        eval_pictures(cell, [0], tmp_path / "nowhere")
    (root / "val" / "dot" / "0.png").write_bytes(b"torn")
    with pytest.raises(UnreadableImage, match=r"0\.png"):
        eval_pictures(cell, [0], root)
