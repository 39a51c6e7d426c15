"""A method from a user's own package in a study."""

import json
import sys
import textwrap

import pytest
import yaml
from launching import BRIEFLY, ONE_STEP_EPOCH
from local_cluster import LocalCluster

from orchestrator.errors import UserError
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState
from orchestrator.study.expansion import expand
from orchestrator.study.study import load_study

PLACE = "sweepers.last:LastTokens"
SOURCE = """
    import torch

    from reduction.plan import Keep
    from reduction.stage import Stage

    class LastTokens(Stage):
        family = "pruning"
        citation = "an example"
        patterns = ("kept",)

        def before_block(self, tokens):
            first = tokens.count - self.spec.target(tokens.num_patches)
            index = torch.arange(first, tokens.count, device=tokens.x.device)
            return Keep(index=index.expand(len(tokens.x), -1))
"""


def study_of(*methods):
    grid = {"dataset": ["digits"], "capacity": ["tiny"], "method": [*methods], "keep_rate": [0.5]}
    defaults = {"reduction_loc": [1, 2], "recipe": "r", "seed": [0, 1]}
    study = {"name": "own", "defaults": defaults, "grids": [grid], "recipes": {"r": ONE_STEP_EPOCH}}
    return study | {"measure": BRIEFLY}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return the folder that a user's package is installed in."""
    folder = tmp_path / "installed"
    (folder / "sweepers").mkdir(parents=True)
    (folder / "sweepers" / "__init__.py").touch()
    (folder / "sweepers" / "last.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in ("sweepers.last", "sweepers"):
        sys.modules.pop(name, None)


def written(tmp_path, study):
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(study))
    return str(file)


def test_its_place_is_in_the_id(tmp_path, package):
    cells = expand(load_study(written(tmp_path, study_of(PLACE))))
    assert [cell.method for cell in cells] == [PLACE, PLACE]
    assert cells[0].id.startswith("digits-sweepers.last.LastTokens-tiny-r0.5-s0-")
    other = cells[0].model_copy(update={"method": "sweepers:last.LastTokens"})
    assert other.id != cells[0].id


def test_what_cannot_be_imported_is_one_line(tmp_path, package):
    for place, reason in (
        ("sweepers.first:LastTokens", "cannot be imported: ModuleNotFoundError: No module named"),
        ("sweepers.last:First", "cannot be imported: AttributeError"),
        ("sweepers.last:torch", "must be a name or a subclass of Stage"),
    ):
        with pytest.raises(UserError, match=rf"^own: grids\.0\.method: .*{reason}") as error:
            expand(load_study(written(tmp_path, study_of(place))))
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_study_on_two_nodes(tmp_path, package):
    """Both nodes import it; cells train and are evaluated as any other."""
    with LocalCluster(env={"PYTHONPATH": str(package)}) as cluster:
        cluster.add_node()
        cluster.add_node()
        launch = cluster.launch(tmp_path, study=study_of(PLACE))
        launch.end(0)
    store = Store(tmp_path / "own")
    assert len(store.cell_ids()) == 2
    for name in store.cell_ids():
        assert store.cell(name).state() is CellState.DONE
        (evaluation,) = (tmp_path / "own" / "cells" / name).rglob("eval.json")
        assert "pruning" in json.dumps(json.loads(evaluation.read_text()))


@pytest.mark.slow
def test_a_node_without_it_is_named(tmp_path, package):
    with LocalCluster() as cluster:
        cluster.add_node()
        cluster._env |= {"PYTHONPATH": str(package)}  # for the launch alone
        launch = cluster.launch(tmp_path, study=study_of(PLACE))
        launch.end(2)
    last = launch.console.splitlines()[-1]
    assert last.startswith("error: on node ")
    assert f"method {PLACE} cannot be imported" in last
    assert last.endswith(": install its package there")
