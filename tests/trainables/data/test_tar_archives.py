"""Datasets in tar archives: listed as timm lists them, read without unpacking."""

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from orchestrator.commands.check_data import check_data
from orchestrator.console import new_console
from trainables.data import open_dataset
from trainables.data.cache import cached, prepare
from trainables.data.image_files import UnreadableImage


def encoded(seed):
    """A PNG of random pixels."""
    pixels = np.random.default_rng(seed).integers(256, size=(12, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def archive(path, files):
    """Write a tar archive of these contents by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path.read_bytes()


def one_archive(root):
    """`train.tar` and `val.tar` with a folder a class."""
    archive(
        root / "train.tar",
        {
            "./cat/2.png": encoded(2), "./cat/10.png": encoded(10), "readme.txt": b"hello",
            "./dog/1.png": encoded(1),
        },
    )  # fmt: skip
    archive(root / "val.tar", {"dog/7.png": encoded(7), "cat/8.png": encoded(8)})
    return {
        "train.tar/cat/2.png": (0, 2), "train.tar/cat/10.png": (0, 10),
        "train.tar/dog/1.png": (1, 1),
    }, {"val.tar/cat/8.png": (0, 8), "val.tar/dog/7.png": (1, 7)}  # fmt: skip


def archives_of_classes(root):
    """`train/CLASS.tar` and `val/CLASS.tar`."""
    for part, seed in (("train", 0), ("val", 5)):
        for number, name in enumerate(("n01", "n02")):
            archive(root / f"{part}/{name}.tar", {f"{name}_3.JPEG": encoded(seed + number)})
    return {
        "train/n01.tar/n01_3.JPEG": (0, 0), "train/n02.tar/n02_3.JPEG": (1, 1),
    }, {"val/n01.tar/n01_3.JPEG": (0, 5), "val/n02.tar/n02_3.JPEG": (1, 6)}  # fmt: skip


def archive_of_archives(root):
    """`train.tar` as ImageNet has it: an archive a class in it."""
    inner = {
        f"{name}.tar": archive(root / "made.tar", {f"{name}_{seed}.JPEG": encoded(seed)})
        for seed, name in enumerate(("n01", "n02"))
    }
    archive(root / "train.tar", inner)
    (root / "made.tar").unlink()
    archive(root / "val.tar", {"n02/7.JPEG": encoded(7)})
    return {
        "train.tar/n01.tar/n01_0.JPEG": (0, 0), "train.tar/n02.tar/n02_1.JPEG": (1, 1),
    }, {"val.tar/n02/7.JPEG": (1, 7)}  # fmt: skip


every_layout = pytest.mark.parametrize(
    "write", [one_archive, archives_of_classes, archive_of_archives]
)


def shown(split):
    return {
        split.name(index): (split.target(index), np.asarray(split.image(index)).tolist())
        for index in range(len(split))
    }


@every_layout
class TestEveryLayout:
    def test_opens_as_it_was_written_and_again_from_its_index(self, write, tmp_path):
        train, val = write(tmp_path)
        for _ in range(2):
            dataset = open_dataset("tar.mine", tmp_path, tmp_path / "index")
            for split, written in ((dataset.train, train), (dataset.val, val)):
                expected = {
                    name: (label, np.asarray(Image.open(io.BytesIO(encoded(seed)))).tolist())
                    for name, (label, seed) in written.items()
                }
                assert shown(split) == expected
        assert shown(pickle.loads(pickle.dumps(dataset.val))) == shown(dataset.val)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm's.
    def test_is_in_timms_order(self, write, tmp_path):
        write(tmp_path)
        dataset = open_dataset("tar", tmp_path)
        place = tmp_path / ("train.tar" if (tmp_path / "train.tar").exists() else "train")
        reader = ReaderImageInTar(str(place))
        assert dataset.class_names == tuple(reader.class_idx_to_name[n] for n in (0, 1))
        theirs = [(int(label), np.asarray(Image.open(file)).tolist()) for file, label in reader]
        assert list(shown(dataset.train).values()) == theirs

    def test_is_checked(self, write, tmp_path, capsys):
        write(tmp_path)
        assert check_data("tar", tmp_path, new_console())
        assert capsys.readouterr().out.endswith("no problems found\n")


def test_a_damaged_image_is_named(tmp_path, capsys):
    one_archive(tmp_path)
    archive(tmp_path / "val.tar", {"dog/7.png": encoded(7)[:40], "cat/8.png": encoded(8)})
    assert check_data("tar", tmp_path, new_console()) is None
    assert "  val.tar/dog/7.png: " in capsys.readouterr().out


def test_a_changed_archive_is_listed_and_cached_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSWEEP_CACHE", str(tmp_path / "cache"))
    one_archive(tmp_path)

    def first():
        val = cached(open_dataset("tar", tmp_path, tmp_path / "index"), 8).val
        list(prepare(val))
        return np.asarray(val.image(0)).tolist()

    before = first()
    archive(tmp_path / "val.tar", {"cat/8.png": encoded(9), "dog/7.png": encoded(7)})
    os.utime(tmp_path / "val.tar", ns=(1, 1))
    assert first() != before


def test_an_archive_that_goes_away_is_an_unreadable_image(tmp_path):
    one_archive(tmp_path)
    val = open_dataset("tar", tmp_path).val
    (tmp_path / "val.tar").unlink()
    with pytest.raises(UnreadableImage, match=r"val\.tar/cat/8\.png: .*No such file"):
        val.image(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "val.tar").unlink(), r"ROOT/val\.tar is missing \(or val/\*\.tar\)"),
        (lambda root: (root / "val.tar").write_bytes(b"no"), r"ROOT/val\.tar has no images that"),
        (lambda root: archive(root / "val.tar", {"a.txt": b""}), r"ROOT/val\.tar has no images th"),
        (
            lambda root: archive(root / "val.tar", {"cow/1.png": encoded(1)}),
            r"1 classes in val that train does not have \(cow\)",
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, change, message):
    one_archive(tmp_path)
    change(tmp_path)
    told = message.replace("ROOT", str(tmp_path))
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        open_dataset("tar", tmp_path)
