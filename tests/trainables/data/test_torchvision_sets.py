"""torchvision's sets, on small copies in the layouts of their archives."""

import pickle
import shutil
import tarfile
import threading
from functools import partial
from hashlib import md5
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torchvision.datasets
from torchvision_archives import ARCHIVES, register, write_pets

from trainables.data import TORCHVISION, file_dataset, open_dataset
from trainables.data.image_files import FileSplit
from trainables.data.torchvision_sets import SETS, STAGING

every_set = pytest.mark.parametrize("name", ARCHIVES)


@pytest.fixture
def labels(name, tmp_path, monkeypatch):
    """Class indices of what was written to `tmp_path / "data"`."""
    written = ARCHIVES[name](tmp_path / "data")
    register(name, tmp_path / "data", monkeypatch)
    return written


def targets(split):
    return [split.target(index) for index in range(len(split))]


def complaint(name, root):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        open_dataset(name, root)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(root), "ROOT")


def test_every_set_is_listed():
    assert sorted(SETS) == list(TORCHVISION) == sorted(ARCHIVES)


@every_set
class TestEvery:
    def test_opens_as_it_was_written(self, name, labels, tmp_path):
        dataset = open_dataset(name, tmp_path / "data")
        assert (dataset.name, dataset.task, dataset.metric) == (name, "single_label", "top1")
        assert (targets(dataset.train), targets(dataset.val)) == labels
        assert max(*labels.train, *labels.val) < len(dataset.class_names)
        assert all(isinstance(each, str) for each in dataset.class_names)

    def test_shows_the_images_that_torchvision_shows(self, name, labels, tmp_path):
        dataset, known = open_dataset(name, tmp_path / "data"), SETS[name]
        if name == "eurosat":  # torchvision has no splits of it.
            return
        for split, parts in ((dataset.train, known.train), (dataset.val, known.val)):
            theirs = []
            for part in parts:
                plain = {key: value for key, value in part.items() if key != "loader"}
                theirs += getattr(torchvision.datasets, known.class_name)(
                    str(tmp_path / "data"), **plain
                )
            assert len(split) == len(theirs)
            for index, (image, target) in enumerate(theirs):
                ours = split.image(index)
                assert ours.mode == "RGB"
                assert (np.asarray(ours) == np.asarray(image.convert("RGB"))).all()
                assert split.target(index) == target

    def test_a_folder_of_the_set_alone_is_taken(self, name, labels, tmp_path):
        home = tmp_path / "data" / SETS[name].tops[0]
        if home.is_dir():
            assert (targets(open_dataset(name, home).val)) == labels.val

    def test_a_split_can_be_sent_to_other_processes(self, name, labels, tmp_path):
        val = open_dataset(name, tmp_path / "data", tmp_path / "index").val
        sent = pickle.loads(pickle.dumps(val))
        assert (np.asarray(sent.image(0)) == np.asarray(val.image(0))).all()

    def test_what_is_missing_is_named(self, name, tmp_path):
        assert complaint(name, tmp_path) == f"ROOT/{SETS[name].lists[0]} is missing"


class TestImageFiles:
    @pytest.fixture
    def pets(self, tmp_path):
        write_pets(tmp_path)
        return tmp_path

    def test_names_tell_images_apart_and_classes_have_their_titles(self, pets):
        dataset = open_dataset("pets", pets)
        assert dataset.class_names == ("Abyssinian", "American Bulldog", "Bengal")
        assert isinstance(dataset.val, FileSplit)
        assert dataset.val.name(1) == "oxford-iiit-pet/images/american_bulldog_102.jpg"

    def test_missing_images_are_named(self, pets):
        (pets / "oxford-iiit-pet/images/Bengal_3.jpg").unlink()
        told = "1 missing images (oxford-iiit-pet/images/Bengal_3.jpg)"
        assert complaint("pets", pets) == f"dataset 'pets' in ROOT has {told}"

    def test_a_damaged_list_is_one_line(self, pets):
        (pets / "oxford-iiit-pet/annotations/test.txt").write_text("Bengal_1 3\n")
        told = complaint("pets", pets)
        assert told.startswith("ROOT/oxford-iiit-pet is not as published: not enough values")

    def test_the_index_is_made_anew_where_a_list_changes(self, pets):
        assert len(open_dataset("pets", pets, pets / "index").val) == 6
        lines = (pets / "oxford-iiit-pet/annotations/test.txt").read_text().splitlines()
        (pets / "oxford-iiit-pet/annotations/test.txt").write_text("\n".join(lines[:5]))
        assert len(open_dataset("pets", pets, pets / "index").val) == 5

    def test_eurosat_evaluates_every_fifth_number_whatever_is_there(self, tmp_path):
        ARCHIVES["eurosat"](tmp_path)
        val = open_dataset("eurosat", tmp_path).val
        (tmp_path / "eurosat/2750/SeaLake/SeaLake_1.jpg").unlink()
        dataset = open_dataset("eurosat", tmp_path)
        assert [val.name(index) for index in range(4)] == [
            f"eurosat/2750/{kind}/{kind}_{number}.jpg"
            for kind in ("AnnualCrop", "SeaLake")
            for number in (10, 5)
        ]
        assert (dataset.val.names == val.names).all()
        assert not set(dataset.train.names) & set(val.names)
        assert len(dataset.train) == 17

    def test_classes_that_one_list_lacks_are_named(self, tmp_path):
        ARCHIVES["dtd"](tmp_path)
        (tmp_path / "dtd/dtd/labels/val1.txt").write_text("banded/banded_0010.jpg\n")
        assert "1 classes without an image in one of the lists (zigzagged)" in complaint(
            "dtd", tmp_path
        )


def test_changed_arrays_are_refused(tmp_path, monkeypatch):
    ARCHIVES["cifar10"](tmp_path)
    register("cifar10", tmp_path, monkeypatch)
    with (tmp_path / "cifar-10-batches-py/test_batch").open("ab") as file:
        file.write(b"0")
    told = "ROOT/cifar-10-batches-py is not as published: Dataset not found or corrupted."
    assert complaint("cifar10", tmp_path).startswith(told)


class TestDownload:
    """From archives on a server, whose MD5 sums torchvision is told."""

    @pytest.fixture
    def archives(self, tmp_path):
        """The two archives of the pets, by name."""
        write_pets(tmp_path / "made")
        (tmp_path / "server").mkdir()
        for part in ("images", "annotations"):
            with tarfile.open(tmp_path / f"server/{part}.tar.gz", "w:gz") as archive:
                archive.add(tmp_path / "made/oxford-iiit-pet" / part, part)
        return tmp_path / "server"

    @pytest.fixture(autouse=True)
    def server(self, archives, monkeypatch):
        handler = partial(SimpleHTTPRequestHandler, directory=str(archives))
        monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *message: None)
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            sources = [
                (
                    f"http://127.0.0.1:{server.server_port}/{path.name}",
                    md5(path.read_bytes(), usedforsecurity=False).hexdigest(),
                )
                for path in sorted(archives.iterdir())
            ]
            monkeypatch.setattr(torchvision.datasets.OxfordIIITPet, "_RESOURCES", sources)
            yield
            server.shutdown()

    @pytest.fixture
    def download(self):
        return file_dataset("pets").download

    def test_fetches_unpacks_and_leaves_nothing_else(self, download, tmp_path):
        download(tmp_path / "data")
        assert len(open_dataset("pets", tmp_path / "data").val) == 6
        assert [path.name for path in (tmp_path / "data").iterdir()] == ["oxford-iiit-pet"]

    def test_leaves_alone_what_is_there(self, download, archives, tmp_path):
        download(tmp_path / "data")
        shutil.rmtree(archives)
        download(tmp_path / "data")
        download(tmp_path / "data/oxford-iiit-pet")

    def test_a_damaged_archive_leaves_the_folder_as_it_was(self, download, archives, tmp_path):
        (archives / "images.tar.gz").write_bytes(b"404")
        with pytest.raises(RuntimeError, match="corrupted"):
            download(tmp_path / "data")
        assert list((tmp_path / "data").iterdir()) == []

    def test_what_an_interrupted_one_left_does_not_count(self, download, tmp_path):
        write_pets(tmp_path / "data" / STAGING)
        shutil.rmtree(tmp_path / "data" / STAGING / "oxford-iiit-pet/images")
        download(tmp_path / "data")
        assert len(open_dataset("pets", tmp_path / "data").train) == 9
