"""What a reader leaves out is counted and reported; what others read is read."""

import codecs
import json
import zlib

import numpy as np
import pytest
from PIL import Image
from published_datasets import WRITERS

from trainables.data import open_dataset
from trainables.data.image_files import read_image
from trainables.data.transforms import train_transform
from trainables.recipe import Recipe


@pytest.fixture
def root(tmp_path):
    """A folder of two classes with an image each in both parts."""
    for name in ("train/a/0.png", "train/b/0.png", "val/a/0.png", "val/b/0.png"):
        write(tmp_path / name)
    return tmp_path


def write(path, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), 100).save(path, format=kind)


def names(split):
    return [split.name(index) for index in range(len(split))]


class TestFolder:
    def test_images_below_a_class_folder_belong_to_the_class(self, root):
        write(root / "train/a/more/1.png")
        write(root / "train/a/more/still/2.png")
        dataset = open_dataset("folder", root)
        below = ["train/a/more/1.png", "train/a/more/still/2.png"]
        assert names(dataset.train) == ["train/a/0.png", *below, "train/b/0.png"]
        assert dataset.train.targets.tolist() == [0, 0, 0, 1]
        assert dataset.notes == ()

    @pytest.mark.parametrize(
        ("suffix", "kind"), [("pgm", "PPM"), ("jfif", "JPEG"), ("JPE", "JPEG")]
    )
    def test_suffixes_that_other_loaders_take_are_taken(self, root, suffix, kind):
        write(root / f"train/b/1.{suffix}", kind)
        assert names(open_dataset("folder", root).train)[-1] == f"train/b/1.{suffix}"

    def test_files_left_out_are_counted_also_when_the_index_is_read(self, root, tmp_path):
        for name in ("readme", "x/notes.txt", "1.avif", "2.avif"):
            path = root / "train/b" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"")
        index = tmp_path / "indices"
        told = (
            "4 files left out, whose suffix is none of an image "
            "(train/b/1.avif, train/b/2.avif, train/b/readme, ...)"
        )
        for _ in range(2):
            assert open_dataset("folder", root, index).notes == (told,)

    def test_a_link_to_a_folder_above_ends(self, root):
        (root / "train/a/again").symlink_to(root / "train/a")
        assert names(open_dataset("folder", root).train) == ["train/a/0.png", "train/b/0.png"]

    def test_a_new_image_below_a_class_folder_makes_the_index_anew(self, root, tmp_path):
        write(root / "train/a/more/1.png")
        index = tmp_path / "indices"
        open_dataset("folder", root, index)
        write(root / "train/a/more/2.png")
        assert len(open_dataset("folder", root, index).train) == 4


class TestLists:
    @pytest.mark.parametrize(
        "mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE], ids=["utf-8", "utf-16"]
    )
    @pytest.mark.parametrize(
        ("name", "file"),
        [
            ("nabirds", "images.txt"),
            ("nuswide", "nus_wid_data.csv"),
            ("coco", "annotations/instances_train2014.json"),
        ],
    )
    def test_a_byte_order_mark_is_understood(self, tmp_path, name, file, mark):
        written = WRITERS[name](tmp_path, train=6, val=4)
        text = (tmp_path / file).read_text()
        encoding = "utf-8" if mark == codecs.BOM_UTF8 else "utf-16-le"
        (tmp_path / file).write_bytes(mark + text.encode(encoding))
        assert sorted(names(open_dataset(name, tmp_path).train)) == sorted(written.train)

    @pytest.mark.parametrize("odd", ["\u2028", "\x85", "\x0b", "\x1c", "\u3000", "\u00a0"])
    def test_separators_of_unicode_are_part_of_a_name(self, tmp_path, odd):
        WRITERS["nabirds"](tmp_path, train=6, val=4)
        listing = tmp_path / "images.txt"
        first, *others = listing.read_text().splitlines()
        uid, old = first.split(" ")
        new = old.replace(".jpg", f"{odd}.jpg{odd}")
        (tmp_path / "images" / old).rename(tmp_path / "images" / new)
        listing.write_text("\n".join([f"{uid} {new}", *others]) + "\n", newline="")
        dataset = open_dataset("nabirds", tmp_path)
        assert f"images/{new}" in [*names(dataset.train), *names(dataset.val)]

    def test_an_image_listed_twice_is_used_once(self, tmp_path):
        written = WRITERS["nuswide"](tmp_path, train=6, val=4)
        listing = tmp_path / "nus_wid_data.csv"
        train, val = next(iter(written.train)), next(iter(written.val))
        with listing.open("a") as file:
            file.write(f"{train},\"['sky']\",train\n{val},\"['sky']\",val\n")
        dataset = open_dataset("nuswide", tmp_path)
        assert (len(dataset.train), len(dataset.val)) == (6, 4)
        assert dataset.notes == (f"2 images listed twice, used once ({train}, {val})",)

    @pytest.mark.parametrize("part", ["train", "val"])
    def test_an_image_of_both_parts_stays_in_the_evaluation(self, tmp_path, part):
        written = WRITERS["nuswide"](tmp_path, train=6, val=4)
        listed = next(iter(written.train if part == "train" else written.val))
        other = {"train": "val", "val": "train"}[part]
        with (tmp_path / "nus_wid_data.csv").open("a") as file:
            file.write(f"{listed},\"['sky']\",{other}\n")
        dataset = open_dataset("nuswide", tmp_path)
        assert listed in names(dataset.val)
        assert listed not in names(dataset.train)
        assert dataset.notes == (
            f"1 images listed for training and evaluation, used in evaluation ({listed})",
        )

    def test_coco_lists_of_one_file_under_two_ids_count_once(self, tmp_path):
        written = WRITERS["coco"](tmp_path, train=6, val=4)
        path = tmp_path / "annotations/instances_train2014.json"
        content = json.loads(path.read_text())
        again = content["images"][0] | {"id": 999_999}
        path.write_text(json.dumps(content | {"images": [*content["images"], again]}))
        dataset = open_dataset("coco", tmp_path)
        assert sorted(names(dataset.train)) == sorted(written.train)
        assert "1 images listed twice" in dataset.notes[0]


RAMP = np.linspace(0, 1, 64).reshape(8, 8)


class TestGreys:
    @pytest.mark.parametrize(
        ("suffix", "stored"),
        [
            ("tiff", RAMP.astype(np.float32)),
            ("tiff", (RAMP * 255).astype(np.float32)),
            ("tiff", (RAMP * 65535).astype(np.float32)),
            ("tiff", np.round(RAMP * 255).astype(np.int32)),
            ("tiff", np.round(RAMP * 65535).astype(np.int32)),
            ("tiff", np.round(RAMP * (2**31 - 1)).astype(np.int32)),
            ("tiff", np.round(RAMP * 65535).astype(np.uint16)),
            ("png", np.round(RAMP * 65535).astype(np.uint16)),
        ],
        ids=["f1", "f255", "f65535", "i255", "i65535", "i31", "u16", "png16"],
    )
    def test_greys_of_any_depth_keep_their_range(self, tmp_path, suffix, stored):
        path = tmp_path / f"ramp.{suffix}"
        Image.fromarray(stored).save(path)
        decoded = np.asarray(read_image(path))
        assert np.abs(decoded - 255 * RAMP[..., None]).max() <= 1  # Eight bits, rounded down.

    def test_pixels_that_are_no_number_or_negative_are_black(self, tmp_path):
        Image.fromarray(np.array([[np.nan, -3, 0.5, 1]], dtype=np.float32)).save(
            tmp_path / "x.tiff"
        )
        assert np.asarray(read_image(tmp_path / "x.tiff"))[0, :, 0].tolist() == [0, 0, 127, 255]


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_metadata_beyond_the_limits_costs_the_metadata_alone(tmp_path, kind):
    path = tmp_path / "image.png"
    pixels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    Image.fromarray(pixels).save(path)
    plain = path.read_bytes()
    head = b"note\0\1\0\0\0" if kind == b"iTXt" else b"note\0\0"
    data = head + zlib.compress(bytes(70_000_000))
    chunk = len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)
    path.write_bytes(plain[:33] + chunk + plain[33:])  # Behind the header.
    with pytest.raises(ValueError, match="too large|limit"):
        Image.open(path).load()
    assert (np.asarray(read_image(path)) == pixels).all()


class TestRandAugment:
    @pytest.mark.parametrize(
        "specification",
        [
            "rand-foo", "rand-m9-mstd0.5-inc1-w0", "rand-m9-x3", "rand-m9_mstd0.5", "rand-m",
            "rand-m9.5", "rand-tnothing", "rand-m9-", "rand-inc2", "rand-p1.5", "rand-m9-m5",
            "augmix-m3", "", "rand-n0",
        ],
    )  # fmt: skip
    def test_what_timm_would_not_follow_is_refused(self, specification):
        with pytest.raises(ValueError, match="has the section|has a section twice"):
            Recipe(rand_augment=specification)

    @pytest.mark.parametrize(
        "specification",
        [
            "rand-m9-mstd0.5-inc1",
            "rand-m9-n3-mstd0.5",
            "rand-mstd1-tweights",
            "rand-p0.5-mmax10-t3a",
        ],
    )
    def test_what_it_follows_is_accepted_and_trains(self, specification):
        recipe = Recipe(rand_augment=specification, image_size=32)
        transform = train_transform(recipe, "single_label", (0.5, 0.5, 0.5))
        assert transform(Image.new("RGB", (40, 40))).shape == (3, 32, 32)
