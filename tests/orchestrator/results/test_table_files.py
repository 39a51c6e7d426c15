"""Tables are made again where cells or what tables hold have changed, and else are not."""

import json
from hashlib import sha256

import pandas as pd

from analysis.tables import SCHEMAS, table
from orchestrator.results import table_store
from orchestrator.results.table_store import (
    publish_tables,
    read_tables,
    replace_tables,
    tables_are_current,
)

SCHEMAS_OF_RULE = {
    "1": "cda985f85ca4846973ac1fb192ac57285ef1f528b718b93ba48189c30ed56458",
    "2": "be443a0d2732701080dad5ce4af43a6dc0bb0f5e3fc76fb4730c4e864e11bb6d",
    "3": "6048154e0c80f1a378be1f8ce56ade689601c619644614cd470263fda0c5f879",
}
"""Rule -> SHA-256 of the columns that its tables have."""


def test_other_columns_have_another_rule():
    """Else a finished study would never get a new column: raise TABLES_RULE, and add it above.

    Studies from before there was `tuning` have no such table to make again.
    """
    of_all = {name: columns for name, columns in SCHEMAS.items() if name != "tuning"}
    columns = sha256(json.dumps(of_all).encode()).hexdigest()
    assert SCHEMAS_OF_RULE[table_store.TABLES_RULE] == columns


def test_tables_of_another_rule_are_made_again(store, monkeypatch):
    publish_tables(store, {"ranks": table("ranks", [])}, {"cell": "digest"})
    assert tables_are_current(store, {"cell": "digest"})
    assert not tables_are_current(store, {"cell": "another"})
    monkeypatch.setattr(table_store, "TABLES_RULE", "another")
    assert not tables_are_current(store, {"cell": "digest"})


def test_replacing_a_table_makes_no_other_current(store, monkeypatch):
    publish_tables(store, {"ranks": table("ranks", [])}, {"cell": "digest"})
    monkeypatch.setattr(table_store, "TABLES_RULE", "another")
    replace_tables(store, {"speed": table("speed", [])})
    assert not tables_are_current(store, {"cell": "digest"})
    assert list(read_tables(store)) == ["ranks", "speed"]


def test_a_table_that_is_replaced_before_any_is_made(store):
    frame = table("depth_maps", [{"cell_id": "a", "row": 0, "column": 1, "images": 2}])
    replace_tables(store, {"depth_maps": frame})
    pd.testing.assert_frame_equal(read_tables(store)["depth_maps"], frame)
    assert not tables_are_current(store, {"cell": "digest"})
