"""A study whose recipe asks for compiling, of a method that cannot be: the launch says so."""

import pytest
import yaml

METHOD = {"dataset": ["digits"], "capacity": ["tiny"], "method": ["ats"], "keep_rate": [0.5]}
RECIPE = {
    "host": "digits_{capacity}_patch4_32",
    "image_size": 32,
    "crop_ratio": 1.0,
    "epochs": 0,
    "warmup_epochs": 0,
    "compile": True,
}


@pytest.mark.slow
def test_a_launch_says_what_it_did_not_compile(tmp_path, launch_study):
    file = tmp_path / "ats.yaml"
    defaults = {"reduction_loc": [3, 6, 9], "recipe": "r", "eval_keep_rates": [0.3, 0.7]}
    study = {
        "name": "ats",
        "defaults": defaults,
        "grids": [METHOD],
        "recipes": {"r": RECIPE},
    }
    file.write_text(yaml.safe_dump(study))

    launched = launch_study(tmp_path, study=str(file), phases=["train", "evaluate"])
    assert launched.status == 0, launched.output
    (cell_id,) = launched.store.cell_ids()
    lines = [
        f"{cell_id}: {does} without being compiled, more slowly: "
        "ats keeps another number of tokens in each batch"
        for does in ("trains", "evaluates")
    ]
    assert [line for line in launched.output.splitlines() if "being compiled" in line] == lines
    for folder in launched.store.cell(cell_id).evaluations().values():
        assert folder.metrics()["compiled"] is False
