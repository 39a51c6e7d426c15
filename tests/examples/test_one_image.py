"""The notebook runs from top to bottom, and what it shows is what it still gives."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "one_image.ipynb"


def printed(notebook):
    """What each code cell prints and how many pictures it draws; warnings aside."""
    shown = []
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        text = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
        pictures = sum("image/png" in o.get("data", {}) for o in outputs)
        shown.append((text, pictures))
    return shown


@pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client.*", "ignore::UserWarning")
def test_the_notebook_gives_what_it_shows(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stored = nbformat.read(NOTEBOOK, as_version=4)
    fresh = nbformat.read(NOTEBOOK, as_version=4)
    for cell in fresh.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(fresh, timeout=300, kernel_name="python3").execute()
    assert printed(fresh) == printed(stored)
    assert printed(fresh)[3][0].startswith("block 3: 98 patch tokens left\n")
    assert sum(pictures for _, pictures in printed(fresh)) == 2
