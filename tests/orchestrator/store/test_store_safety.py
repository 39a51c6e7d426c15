"""A store is data from elsewhere: no name in it leads out of it, and nothing in it runs."""

import json

import pytest
import yaml

from orchestrator.results.sample_store import SAMPLE_RULE, samples_are_current
from orchestrator.results.table_store import TABLES_RULE, publish_tables, tables_are_current
from trainables.storage.files import (
    DamagedFileError,
    digest,
    read_sealed_json,
    remove_tree,
    write_sealed_json,
)

OUTSIDE = ["../outside", "/etc/passwd", "s3://bucket/outside", "a/../../outside", ".hidden"]

leading_out = pytest.mark.parametrize("name", OUTSIDE)


@leading_out
def test_a_cell_of_the_study_is_a_name(store, name):
    path = store.path / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "study", "cells": [name]}))
    with pytest.raises(DamagedFileError, match="study.yaml is damaged: '.*' is no id of a cell"):
        store.cell_ids()


@leading_out
@pytest.mark.parametrize("key", ["dataset", "method", "capacity", "prerequisite"])
def test_what_becomes_part_of_a_path_is_a_name(store, cell, key, name):
    path = store.cell(cell.id).path / "cell.json"
    path.write_text(json.dumps(cell.model_dump(mode="json") | {key: name}))
    with pytest.raises(DamagedFileError, match="cell.json is damaged"):
        store.cell(cell.id).cell()


@leading_out
def test_an_artifact_is_one_of_those_that_an_evaluation_makes(stored, name):
    path = stored.path / "eval.json"
    record = read_sealed_json(path)
    write_sealed_json(path, record | {"artifacts": {name: digest(b"")}})
    with pytest.raises(DamagedFileError, match="eval.json is damaged: it vouches for '"):
        stored.read_artifact(name)
    (damaged,) = stored.repair()
    assert damaged.path == path


@leading_out
def test_a_table_is_one_of_those_that_a_study_has(store, name):
    publish_tables(store, {}, {})
    path = store.tables / "inputs.json"
    write_sealed_json(
        path, {"inputs": {}, "rule": TABLES_RULE, "files": {f"{name}.parquet": digest(b"")}}
    )
    with pytest.raises(DamagedFileError, match="inputs.json is damaged: it vouches for '"):
        tables_are_current(store, {})


@leading_out
def test_a_sample_lies_where_samples_do(store, name):
    record = {"rule": SAMPLE_RULE, "inputs": {}, "files": [name]}
    write_sealed_json(store.samples / "inputs.json", record)
    with pytest.raises(DamagedFileError, match="inputs.json is damaged: it vouches for '"):
        samples_are_current(store, {})


def test_removing_a_folder_follows_no_link(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "store" / "cell"
    outside.mkdir()
    (outside / "kept").touch()
    inside.mkdir(parents=True)
    (inside / "link").symlink_to(outside)
    remove_tree(inside)
    assert not inside.exists()
    assert (outside / "kept").exists()
