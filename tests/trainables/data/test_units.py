"""Images of one source: what a dataset's list names reaches predictions, intervals and tests."""

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.answers import Answers, prediction_arrays
from trainables.data import open_dataset
from trainables.evaluation import evaluate_cell
from trainables.models.host import build_model


@pytest.fixture
def root(tmp_path):
    for part, count in (("train", 1), ("val", 3)):
        for name in "ab":
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (40 * number, 0, 99)).save(folder / f"{number}.png")
    return tmp_path / "data"


def list_units(root, *lines):
    (root / "units.csv").write_text("\n".join(["path,unit", *lines]) + "\n")


def test_listed_images_share_units_and_others_stand_for_themselves(root):
    list_units(root, "val/a/0.png,park", "val/b/1.png,park", 'val/a/2.png,"street, 7"')
    dataset = open_dataset("folder", root)
    # val is a/0, a/1, a/2, b/0, b/1, b/2.
    assert dataset.units.tolist() == [0, 1, 2, 3, 0, 4]
    assert dataset.units.dtype == np.int64
    assert dataset.notes == ("1 units that evaluation images share (park)",)


def test_without_a_list_there_are_no_units(root):
    assert open_dataset("folder", root).units is None


def test_an_index_keeps_units_and_is_made_anew_when_the_list_comes_or_goes(root, tmp_path):
    index = tmp_path / "index"
    index.mkdir()
    assert open_dataset("folder", root, index).units is None
    list_units(root, "val/a/0.png,park", "val/a/1.png,park")
    for _ in range(2):
        assert open_dataset("folder", root, index).units.tolist() == [0, 0, 1, 2, 3, 4]
    (root / "units.csv").unlink()
    assert open_dataset("folder", root, index).units is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("val/a/0.png", r"units.csv:3: 1 columns, but must be path, unit"),
        (
            "val/a/0.png,street",
            r"units.csv:3: val/a/0.png has unit 'street', but had 'park'",
        ),
    ],
)
def test_lines_that_make_no_sense_are_named(root, line, message):
    list_units(root, "val/a/0.png,park", line)
    with pytest.raises(ValueError, match=message):
        open_dataset("folder", root)


def test_a_list_without_its_header_is_refused(root):
    (root / "units.csv").write_text("val/a/0.png,park\n")
    with pytest.raises(ValueError, match=r"begins with 'val/a/0.png,park', but must "):
        open_dataset("folder", root)


def test_images_that_are_not_evaluated_are_noted(root):
    list_units(root, "train/a/0.png,park")
    dataset = open_dataset("folder", root)
    assert dataset.units.tolist() == [0, 1, 2, 3, 4, 5]
    assert dataset.notes == ("1 images in units.csv that are not evaluated (train/a/0.png)",)


def test_units_reach_predictions_and_widen_intervals(root, make_cell):
    cell = make_cell("topk", pretrained=False)
    weights = build_model(cell, 2).state_dict()
    options = {"data_root": root, "device": torch.device("cpu"), "threads": 1}
    alone = evaluate_cell(cell, weights, **options).predictions
    assert "unit" not in alone
    list_units(root, *(f"val/{name}/{number}.png,{name}" for name in "ab" for number in range(3)))
    shared = evaluate_cell(cell, weights, **options).predictions
    assert shared["unit"].tolist() == [0, 0, 0, 1, 1, 1]
    narrow, wide = (Answers.of(prediction_arrays(p)).interval for p in (alone, shared))
    assert wide[1] - wide[0] > narrow[1] - narrow[0]
