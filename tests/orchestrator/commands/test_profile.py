"""`tokensweep profile` as a user types it."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from orchestrator.cli import main

PARTS = (
    "data wait, copy to device, normalise, mixup, forward, backward, optimiser, evaluation, "
    "checkpoint"
)


@pytest.mark.slow
def test_a_profile_is_a_table_a_chart_and_numbers(tmp_path):
    command = [sys.executable, "-m", "orchestrator", "profile", "digits-topk-tiny-r0.5-*"]
    options = ["--study", "smoke", "--storage", tmp_path / "runs", "--to", tmp_path, "--steps", "2"]
    shown = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "100", "OMP_NUM_THREADS": "1"},
    ).stdout
    parts = [*PARTS.split(", "), "report by Ray"]
    rows = {part: line for line in shown.splitlines() for part in parts if line.startswith(part)}
    assert rows.keys() == set(parts)
    assert "model FLOP utilisation" in shown
    (numbers,) = tmp_path.glob("digits-topk-*.json")
    facts = json.loads(numbers.read_text())
    assert facts["parts"].keys() == set(parts)
    assert sum(facts["parts"]["forward"].values()) > 0
    assert ET.fromstring(numbers.with_suffix(".svg").read_text()).tag.endswith("svg")
    assert not (tmp_path / "runs" / "smoke" / "cells").exists()


def test_a_profile_is_of_one_cell(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["profile", "digits-t*", "--study", "smoke"])
    assert ended.value.code == 2
    assert "CELL matches 4 cells (digits-topk-tiny-r0.25-" in capsys.readouterr().err
