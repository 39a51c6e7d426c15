"""The work of a study, from the shapes of its models alone."""

import pytest

import reduction
from orchestrator.errors import UserError
from orchestrator.study import preflight
from orchestrator.study.preflight import forecast
from trainables.cell.cell import Cell
from trainables.data import open_dataset
from trainables.models.host import build_host
from trainables.recipe import Recipe

HOST = "digits_tiny_patch4_32"


def cell(method, **recipe):
    fields = {"host": HOST, "image_size": 32, "epochs": 2, "warmup_epochs": 0}
    return Cell(
        dataset="digits",
        method=method,
        capacity="tiny",
        keep_rate=0.5,
        reduction_loc=(3, 6, 9),
        recipe=Recipe(**fields | recipe),
    )


def macs_of(vit, method):
    return reduction.flops(reduction.reduce(vit, method, keep_rate=0.5)).macs


@pytest.mark.parametrize(
    ("method", "recipe", "host_passes", "reduced_passes"),
    [
        ("topk", {}, 0, 3),
        ("deit", {}, 3, 0),
        ("dynamicvit", {}, 3, 0),
        ("dynamicvit", {"distillation": "dynamicvit", "teacher": HOST}, 4, 0),
    ],
)
def test_work_counts_what_training_runs(method, recipe, host_passes, reduced_passes):
    """Masks leave all tokens in place, and a teacher runs forward."""
    vit = build_host(HOST, num_classes=10, image_size=32)
    cells, datasets = [cell(method, **recipe)], {"digits": open_dataset("digits")}
    image = host_passes * macs_of(vit, "deit") + reduced_passes * macs_of(vit, method)
    assert forecast(cells, datasets, None).macs == {cells[0].id: pytest.approx(2 * 1437 * image)}


def test_adapters_want_a_package_before_anything_starts(monkeypatch):
    monkeypatch.setattr("trainables.loop.adapters.find_spec", lambda name: None)
    preflight._check_adapters([cell("topk"), cell("topk", backbone="frozen")])
    with pytest.raises(UserError, match=r"^cell \S+: backbone is 'lora', .* pip install .*$"):
        preflight._check_adapters([cell("topk"), cell("topk", backbone="lora")])


def test_cells_that_differ_in_their_seed_are_measured_once(monkeypatch):
    built, reduce = [], preflight._reduce
    monkeypatch.setattr(
        preflight, "_reduce", lambda host, cell: (built.append(cell.id), reduce(host, cell))[1]
    )
    cells = [cell("topk").model_copy(update={"seed": seed}) for seed in range(3)]
    macs = forecast([*cells, cell("tome")], {"digits": open_dataset("digits")}, None).macs
    assert built == [cells[0].id, cell("tome").id]
    assert len(macs) == 4
    assert len({macs[cell.id] for cell in cells}) == 1
