"""Files with a record that vouches for them: damage is found, named, and costs all of them."""

import random

import pytest
from damage import flip_a_bit

from trainables.storage.files import DamagedFileError, digest, read_sealed_json, write_sealed_json
from trainables.storage.sealed import SealedFiles


def sealed(folder):
    return SealedFiles(
        folder, "record.json", ("*.bin", "only/one.txt"), lambda record: record["sha"]
    )


@pytest.fixture
def files(tmp_path):
    made = sealed(tmp_path / "made")
    digests = made.write({"a.bin": b"first", "only/one.txt": b"second"})
    made.seal({"inputs": "these", "sha": digests})
    return made


def test_the_record_has_the_digest_of_every_file(files):
    record = read_sealed_json(files.record_path)
    expected = {"a.bin": digest(b"first"), "only/one.txt": digest(b"second")}
    assert record == {"inputs": "these", "sha": expected}
    assert files.read("only/one.txt") == b"second"
    files.check()


def test_without_a_record_nothing_counts(tmp_path):
    made = sealed(tmp_path)
    made.write({"a.bin": b"first"})
    assert made.read_record() is None
    assert made.is_current() is False
    assert made.repair() is None
    with pytest.raises(DamagedFileError, match="record.json is damaged: it is missing"):
        made.read("a.bin")


def test_it_is_current_while_the_fields_are_the_same(files):
    assert files.is_current(inputs="these")
    assert not files.is_current(inputs="others")
    assert not files.is_current(inputs="these", rule="2")


@pytest.mark.parametrize("name", ["a.bin", "only/one.txt", "record.json"])
def test_damage_is_named_and_costs_all(files, name):
    flip_a_bit(files.folder / name, random.Random(0))
    with pytest.raises(DamagedFileError, match=name):
        files.is_current(inputs="these")
    assert files.repair().path == files.folder / name
    assert [path for path in files.folder.rglob("*") if path.is_file()] == []


def test_what_is_whole_is_not_repaired(files):
    assert files.repair() is None
    assert files.read("a.bin") == b"first"


@pytest.mark.parametrize(
    "name", ["../a.bin", "/etc/a.bin", ".a.bin", "a.txt", "deeper/a.bin", "only/../only/one.txt"]
)
def test_no_other_name_is_believed(files, name):
    write_sealed_json(files.record_path, {"sha": {name: digest(b"first")}})
    with pytest.raises(DamagedFileError, match="record.json is damaged: it vouches for "):
        files.check()


def test_taking_over_takes_all_or_nothing(files, tmp_path):
    target = sealed(tmp_path / "target")
    assert target.take_over(files)
    assert target.record_path.read_bytes() == files.record_path.read_bytes()
    assert target.read("a.bin") == b"first"
    flip_a_bit(
        files.folder / "a.bin", random.Random(0)
    )  # Where it is a link, both are the same file.
    assert not target.take_over(files)
    assert [path for path in target.folder.rglob("*") if path.is_file()] == []
