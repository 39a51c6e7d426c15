"""Hugging Face datasets on disk, in the files that `save_to_disk` writes."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from orchestrator.commands.check_data import check_data
from orchestrator.console import new_console
from trainables.data import open_dataset

FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
}


def encoded(seed):
    """A PNG of random pixels."""
    pixels = np.random.default_rng(seed).integers(256, size=(12, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(root, part, files, features=FEATURES, batch=2, options=None, **columns):
    """Write a split: for each Arrow file its rows, (bytes, class)."""
    (root / part).mkdir(parents=True, exist_ok=True)
    names = [f"data-{number:05d}-of-{len(files):05d}.arrow" for number in range(len(files))]
    for name, rows in zip(names, files, strict=True):
        images = [{"bytes": content, "path": "1.png"} for content, _ in rows]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        labels = pa.array([label for _, label in rows], pa.int64())
        table = pa.table({"image": pa.array(images, kind), "label": labels} | columns)
        with pa.ipc.new_stream(root / part / name, table.schema, options=options) as stream:
            stream.write_table(table, max_chunksize=batch)
    (root / part / "dataset_info.json").write_text(json.dumps({"features": features}))
    state = {"_data_files": [{"filename": name} for name in names], "_split": part}
    (root / part / "state.json").write_text(json.dumps(state))


@pytest.fixture
def root(tmp_path):
    write(
        tmp_path,
        "train",
        [[(encoded(0), 1), (encoded(1), 0), (encoded(2), 1)], [(encoded(3), 0)]],
    )
    write(tmp_path, "test", [[(encoded(4), 0), (encoded(5), 1)]])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    return tmp_path


def seeds(split):
    """Targets of a split's images, by the seed of their pixels."""
    known = {
        np.asarray(Image.open(io.BytesIO(encoded(seed)))).tobytes(): seed for seed in range(10)
    }
    return {
        known[np.asarray(split.image(index)).tobytes()]: split.target(index)
        for index in range(len(split))
    }


def complaint(root):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        open_dataset("hf", root)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(root), "ROOT")


def test_opens_as_it_was_written_and_again_from_its_index(root, tmp_path):
    for _ in range(2):
        dataset = open_dataset("hf.mine", root, tmp_path / "index")
        assert (dataset.name, dataset.class_names) == ("hf.mine", ("cat", "dog"))
        assert seeds(dataset.train) == {0: 1, 1: 0, 2: 1, 3: 0}
        assert seeds(dataset.val) == {4: 0, 5: 1}
    assert dataset.train.name(3) == "train/data-00001-of-00002.arrow/0"
    told = "1 splits evaluated on, as there is none for validation (test)"
    assert dataset.notes == (told,)


def test_a_validation_split_comes_first(root):
    write(root, "validation", [[(encoded(6), 1)]])
    assert seeds(open_dataset("hf", root).val) == {6: 1}


def test_of_several_classes_the_label_counts(root):
    more = FEATURES | {"kind": {"names": ["pet"], "_type": "ClassLabel"}}
    for part in ("train", "test"):
        (root / part / "dataset_info.json").write_text(json.dumps({"features": more}))
    assert open_dataset("hf", root).class_names == ("cat", "dog")
    del more["label"]
    (root / "train/dataset_info.json").write_text(
        json.dumps({"features": more | {"b": more["kind"]}})
    )
    assert complaint(root) == "ROOT has 2 columns of type ClassLabel, but must have one"


def test_is_checked(root, capsys):
    assert check_data("hf", root, new_console())
    write(root, "test", [[(encoded(4)[:50], 0), (encoded(5), 1)]])
    assert check_data("hf", root, new_console()) is None
    assert "  test/data-00000-of-00001.arrow/0: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([(encoded(4), -1)], "1 images without a class (test/data-00000-of-00001.arrow/0)"),
        ([(None, 0)], "1 images that are not in the file itself, uncompressed (test/data-00000"),
    ],
)
def test_images_that_cannot_be_used_are_named(root, rows, told):
    write(root, "test", [[*rows, (encoded(5), 1)]])
    assert told in complaint(root)


def test_compressed_files_are_refused(root):
    write(root, "test", [[(encoded(5), 1)]], options=pa.ipc.IpcWriteOptions(compression="zstd"))
    assert "images that are not in the file itself, uncompressed" in complaint(root)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("dataset_dict.json", None, "file ROOT/dataset_dict.json is missing: it holds the names"),
        ("train/state.json", "{", "ROOT/train is not as save_to_disk writes it: Expecting"),
        ("train/data-00001-of-00002.arrow", None, "ROOT/train/data-00001-of-00002.arrow is miss"),
        ("train/data-00001-of-00002.arrow", "no", "ROOT/train/data-00001-of-00002.arrow cannot"),
    ],
)
def test_damaged_and_missing_files_are_named(root, file, content, told):
    (root / file).unlink()
    if content is not None:
        (root / file).write_text(content)
    assert complaint(root).startswith(told)
