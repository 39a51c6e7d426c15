"""A running study on Ray's dashboard, on the metrics port and in `tokensweep status`."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.storage.store import Store
from orchestrator.watching.listing import read_status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(590)]

FULL_GRID = Path(__file__).parents[2] / "experiments" / "full_grid.py"
CELLS = "*-topk-*"
TOKEN = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Two cells of the smoke study, one after the other, with a dashboard, to their end."""
    storage = tmp_path_factory.mktemp("storage")
    output = storage / "console.txt"
    command = [sys.executable, FULL_GRID, "--study", "smoke", "--storage", storage, "--dashboard"]
    with output.open("w") as console:
        process = subprocess.Popen(
            [*command, "--set", "recipes.smoke.epochs=3", "--only", CELLS, "--max-concurrent=1"],
            stdout=console,
            stderr=subprocess.STDOUT,
            env=os.environ | {"RAY_AUTH_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"},
        )
    yield Running(process, output, Store(storage / "smoke"))
    assert process.wait(timeout=400) == 0, output.read_text()


class Running:
    def __init__(self, process, output, store):
        self.process, self.output, self.store = process, output, store

    def told(self, pattern):
        """Return what the console says after a pattern, as soon as it does."""
        return self.wait(lambda: re.search(pattern + r" (\S+)", self.output.read_text()))[1]

    def wait(self, find):
        """Return what `find` finds, as soon as that is something, while the study goes on."""
        deadline = time.monotonic() + 300
        while not (found := find()):
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.2)
        return found

    def ask(self, path, token=TOKEN):
        """Return what the dashboard answers."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(self.told("Ray's dashboard:") + path, headers=headers)
        return json.load(urllib.request.urlopen(request, timeout=60))

    def cells(self):
        """Return the ids of the cells that are run."""
        return {cell for cell in self.store.cell_ids() if "-topk-" in cell}

    def tasks(self):
        """Return the names of all tasks so far."""
        answer = self.ask("/api/v0/tasks?limit=10000&detail=1")
        return {task["name"] for task in answer["data"]["result"]["result"]}


def test_the_dashboard_answers_on_loopback_with_the_token_only(launch):
    assert launch.told("Ray's dashboard:").startswith("http://127.0.0.1:")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        launch.ask("/logical/actors", token=None)


def test_status_tells_from_elsewhere_what_runs(launch):
    cells = launch.wait(lambda: [c for c in read_status(launch.store).running if c.loss])
    command = [sys.executable, "-m", "orchestrator", "status", launch.store.path]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "run by process " in shown
    assert "of the CPUs reserved" in shown
    assert "3 other cells of the study are not part of this launch" in shown
    assert {cell.cell for cell in cells} <= launch.cells()


def test_metrics_follow_the_study(launch):
    address = launch.told("metrics for Prometheus:")

    def scraped():
        page = urllib.request.urlopen(address, timeout=30).read().decode()
        families = text_string_to_metric_families(page)
        samples = [sample for family in families for sample in family.samples]
        of_study = [sample for sample in samples if sample.labels.get("study") == "smoke"]
        found = {(s.name, s.labels.get("state")): s.value for s in of_study}
        return found if found.get(("ray_tokensweep_trained_cells_total", None)) else None

    found = launch.wait(scraped)
    cells = [value for (name, _), value in found.items() if name == "ray_tokensweep_cells"]
    assert sum(cells) == 2
    assert found["ray_tokensweep_epochs_total", None] >= 3
    assert found["ray_tokensweep_checkpoint_bytes_total", None] > 1e6
    assert found["ray_tokensweep_nodes", None] == 1


def test_cells_are_named_on_the_dashboard(launch):
    ids = launch.cells()
    # One process trains both, and Ray keeps its first name.
    launch.wait(lambda: {f"{cell_id}.train" for cell_id in ids} <= launch.tasks())
    evaluations = launch.wait(lambda: {t for t in launch.tasks() if t.startswith("evaluate ")})
    assert {name.removeprefix("evaluate ") for name in evaluations} <= ids
    actors = launch.ask("/logical/actors")["data"]["actors"].values()
    names = [a["reprName"] for a in actors if a["className"] == "FinetuneTrainable"]
    assert names
    assert all(name.removesuffix(" and later cells") in ids for name in names)
