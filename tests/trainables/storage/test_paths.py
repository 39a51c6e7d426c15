"""Files of a folder and of an object store, which the store uses alike."""

import pickle
from contextlib import suppress
from pathlib import Path

import pytest
from refusing import Refusing

from trainables.storage.files import (
    DamagedFileError,
    append_line,
    digest,
    read_checked,
    read_sealed_json,
    remove_tree,
    write_atomic,
    write_sealed_json,
)
from trainables.storage.paths import ObjectPath, _opened, _read, store_path

BIG = bytes(range(256)) * 50_000
"""More than one part of an upload."""


@pytest.mark.parametrize("data", [b"", b"new", BIG], ids=len)
def test_what_is_written_reads_back(store_folder, data):
    path = store_folder / "cells" / "a" / "file.bin"
    assert not path.exists()
    write_atomic(path, b"old")
    write_atomic(path, data)
    assert path.read_bytes() == data
    assert read_checked(path, digest(data)) == data
    assert (path.exists(), path.is_file(), path.is_dir()) == (True, True, False)
    assert (path.parent.exists(), path.parent.is_file(), path.parent.is_dir()) == (
        True,
        False,
        True,
    )


@pytest.mark.parametrize("refused", [r"POST .*uploads", r"PUT .*partNumber=2", r"POST .*uploadId"])
def test_an_upload_that_fails_leaves_what_was_there(s3_server, s3_folder, monkeypatch, refused):
    """A request is refused once: as the upload begins, in its midst, as it ends."""
    path = s3_folder / "model.safetensors"
    write_atomic(path, b"old")
    with Refusing(s3_server.endpoint, refused, times=1).serving() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        _opened.cache_clear()
        with pytest.raises(OSError, match="refused by a test"):
            write_atomic(path, 2 * BIG)
        assert path.read_bytes() == b"old"
        assert [found.name for found in s3_folder.glob("*")] == [path.name]
        write_atomic(path, 2 * BIG)
        assert path.read_bytes() == 2 * BIG
    _opened.cache_clear()


@pytest.mark.parametrize("new", [b"longer than before", b"short"])
def test_a_file_that_is_replaced_while_it_is_read_is_read_whole(s3_folder, new):
    """After its length was asked for, and before its content is."""
    path, contents = s3_folder / "file", iter([b"the third", new])

    class Replacing:
        def __init__(self, filesystem):
            self._filesystem = filesystem

        def open_input_stream(self, place):
            stream = self._filesystem.open_input_stream(place)
            with suppress(StopIteration):
                write_atomic(path, next(contents))
            return stream

    write_atomic(path, b"the first")
    assert path._ask(lambda filesystem, place: _read(Replacing(filesystem), place)) == new


def test_a_missing_file_is_missing(store_folder):
    path = store_folder / "file"
    with pytest.raises(FileNotFoundError):
        path.read_bytes()
    with pytest.raises(FileNotFoundError):
        path.unlink()
    path.unlink(missing_ok=True)
    remove_tree(path)
    assert read_sealed_json(path) is None
    with pytest.raises(DamagedFileError, match="it is missing"):
        read_checked(path, "")
    assert list(path.glob("*")) == []


def test_records_are_sealed(store_folder):
    path = store_folder / "record.json"
    write_sealed_json(path, {"a": 1})
    assert read_sealed_json(path) == {"a": 1}
    write_atomic(path, path.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(DamagedFileError, match="record.json is damaged: its content does not"):
        read_sealed_json(path)


def test_lines_are_appended(store_folder):
    path = store_folder / "log.jsonl"
    for number in range(3):
        append_line(path, f"line {number}")
    assert path.read_text() == "line 0\nline 1\nline 2\n"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", ["cells", "study.yaml"]),
        ("*.yaml", ["study.yaml"]),
        ("cells/*", ["cells/a", "cells/b"]),
        ("cells/*/cell.json", ["cells/a/cell.json", "cells/b/cell.json"]),
        ("cells/a/last/state-*.pt", ["cells/a/last/state-1.pt"]),
        ("cells/c*/cell.json", []),
        ("study.yaml", ["study.yaml"]),
        ("*/*/last/missing", []),
        ("study.yaml/*", []),
        ("missing/*", []),
    ],
)
def test_globs_find_files_and_folders(store_folder, pattern, found):
    names = ("study.yaml", "cells/a/cell.json", "cells/a/last/state-1.pt", "cells/b/cell.json")
    for name in names:
        write_atomic(store_folder / name, b"x")
    paths = sorted(store_folder.glob(pattern))
    assert paths == [store_folder / name for name in found]


def test_a_listing_has_all_files_with_their_sizes(s3_folder):
    for name in ("study.yaml", "cells/a/cell.json"):
        write_atomic(s3_folder / name, name.encode())
    listed = {name: size for name, size, _ in s3_folder.listing()}
    assert listed == {"study.yaml": 10, "cells/a/cell.json": 17}


def test_removing_leaves_the_rest(store_folder):
    for name in ("a/1", "a/b/2", "c"):
        write_atomic(store_folder / name, b"x")
    remove_tree(store_folder / "a")
    assert [path.name for path in store_folder.glob("*")] == ["c"]
    (store_folder / "c").unlink()
    assert list(store_folder.glob("*")) == []


def test_parts_of_a_path(store_folder):
    path = store_folder / "cells" / "a" / "state-1.tar.pt"
    assert (path.name, path.stem, path.parent.name) == ("state-1.tar.pt", "state-1.tar", "a")
    assert path.parts[-3:] == ("cells", "a", "state-1.tar.pt")
    assert path.with_name("b") == path.parent / "b"
    assert path.absolute() == path
    assert {path: 1}[store_folder / "cells/a/state-1.tar.pt"] == 1
    assert pickle.loads(pickle.dumps(path)) == path


def test_a_pickle_holds_the_uri_alone(s3_folder):
    write_atomic(s3_folder / "file", b"x")  # The store is open by now.
    assert len(pickle.dumps(s3_folder)) < 100 + len(str(s3_folder))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("runs/a", Path("runs/a")),
        ("file:///data/my%20runs", Path("/data/my runs")),
        ("s3://bucket", ObjectPath("s3://bucket")),
        ("s3://bucket//a/b/", ObjectPath("s3://bucket/a/b")),
    ],
)
def test_places_are_recognised(text, path):
    assert store_path(text) == path
    assert store_path(str(path)) == path


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("s3://me:hidden@bucket/a", "the s3:// URI holds credentials; give those"),
        ("s3://bucket/a?access_key=me&secret_key=hidden", "has a query, but must end with"),
        ("s3://bucket/a/../b", "'..' leads out of s3://bucket/a"),
        ("s3://", "'s3://' names no bucket"),
    ],
)
def test_other_uris_are_refused_and_no_secret_repeated(text, problem):
    with pytest.raises(ValueError, match="URI|leads|bucket") as refused:
        store_path(text)
    assert problem in str(refused.value)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("name", ["../b", "/b", "a/../../b"])
def test_a_name_does_not_lead_out_of_an_object_folder(name):
    with pytest.raises(ValueError, match="leads out of s3://bucket/a"):
        ObjectPath("s3://bucket/a") / name
