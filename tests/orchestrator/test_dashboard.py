"""A running study on Ray's dashboard, on the metrics port and in `tokensweep status`."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from launching import STUDY, Launch, listening
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.commands.listing import read_status

pytestmark = pytest.mark.slow

CELLS = "*-topk-*"
TOKEN = "0123456789abcdef" * 4

SHORT = STUDY["recipes"]["everything"] | {"epochs": 1, "checkpoint_minutes": 0.05}
GRID = {"dataset": ["digits"], "capacity": ["tiny"], "keep_rate": [0.5]}
WATCHED = {
    "name": "watched",
    "defaults": {"reduction_loc": [3, 6, 9], "recipe": "short"},
    "grids": [
        GRID | {"method": ["topk"], "seed": [0, 1]},
        GRID | {"method": ["topk"], "recipe": "endless"},
        GRID | {"method": ["tome"], "seed": [0, 1, 2]},
    ],
    "recipes": {"short": SHORT, "endless": SHORT | {"epochs": 100_000}},
}
"""Two cells that end soon, one that is stopped in the end, and three that are not launched."""


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """A launch with a dashboard that goes on for as long as the tests look at it."""
    storage = tmp_path_factory.mktemp("storage")
    env = {"RAY_AUTH_TOKEN": TOKEN}
    launch = Watched(storage, "--dashboard", "--only", CELLS, study=WATCHED, env=env)
    yield launch
    launch.process.send_signal(signal.SIGINT)
    launch.end(130)


class Watched(Launch):
    def told(self, pattern):
        """Return what the console says after a pattern, as soon as it does."""
        return self.find(lambda: re.search(pattern + r" (\S+)", self.console))[1]

    def find(self, find):
        """Return what `find` finds, as soon as that is something, while the study goes on."""
        found = []

        def finds():
            with contextlib.suppress(
                urllib.error.URLError
            ):  # Ray answers some time after it began.
                found.append(find())
            return found and found[-1]

        self.wait_until(finds)
        return found[-1]

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


def test_nothing_of_a_launch_can_be_reached_from_elsewhere(launch):
    launch.told("metrics for Prometheus:")
    launch.find(lambda: [c for c in read_status(launch.store).running if c.loss])
    found = listening(launch.process.pid)
    titles = " ".join(title for titles in found.values() for title in titles)
    for part in ("raylet", "gcs_server", "dashboard", "Agent", "digits-topk"):
        assert part in titles
    assert [address for address in found if not address.is_loopback] == []


def test_status_tells_from_elsewhere_what_runs(launch):
    cells = launch.find(lambda: [c for c in read_status(launch.store).running if c.loss])
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
        of_study = [sample for sample in samples if sample.labels.get("study") == "watched"]
        found = {(s.name, s.labels.get("state")): s.value for s in of_study}
        return found if found.get(("ray_tokensweep_trained_cells_total", None)) else None

    found = launch.find(scraped)
    cells = [value for (name, _), value in found.items() if name == "ray_tokensweep_cells"]
    assert sum(cells) == 3
    assert found["ray_tokensweep_epochs_total", None] >= 1
    assert found["ray_tokensweep_checkpoint_bytes_total", None] > 1e6
    assert found["ray_tokensweep_nodes", None] == 1


def test_cells_are_named_on_the_dashboard(launch):
    ids = launch.cells()
    # One process may train several, and Ray keeps its first name.
    launch.find(lambda: {f"{cell_id}.train" for cell_id in ids} <= launch.tasks())
    evaluations = launch.find(lambda: {t for t in launch.tasks() if t.startswith("evaluate ")})
    assert {name.removeprefix("evaluate ") for name in evaluations} <= ids
    actors = launch.ask("/logical/actors")["data"]["actors"].values()
    names = [a["reprName"] for a in actors if a["className"] == "FinetuneTrainable"]
    assert names
    assert all(name.removesuffix(" and later cells") in ids for name in names)
