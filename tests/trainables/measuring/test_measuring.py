"""Measurements of cells' models: what is built, and what happens to those that are disturbed."""

import numpy as np
import pytest
import torch

import reduction
from reduction.timing import Latency, Quartiles
from trainables.data import open_dataset
from trainables.measuring import measuring
from trainables.measuring.configuration import Configuration
from trainables.measuring.measuring import Place, TrainedCell, measure
from trainables.measuring.settings import Effort
from trainables.measuring.surroundings import Surroundings
from trainables.models.host import build_model

PLACE = Place(torch.device("cpu"), threads=1)
ALONE = Surroundings(load_before=0.0, load_after=0.0, other_cpus=None, gpu_users=None)


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Whatever else this machine does."""
    monkeypatch.setattr(Surroundings, "since", lambda *_: ALONE)


class MadeUpSpeed:
    """Stands for `reduction.speed`."""

    def __init__(self, *spreads):
        self.calls = []
        self.spreads = list(spreads)

    def __call__(self, model, **kwargs):
        self.calls.append((model, kwargs))
        found = self.spreads.pop(0) if self.spreads else 0.0
        if isinstance(found, Exception):
            raise found
        around = Quartiles(10 * (1 - found / 2), 10.0, 10 * (1 + found / 2))
        return reduction.Speed(
            batch_size=kwargs["batch_size"],
            rounds=7,
            host_images_per_second=around,
            images_per_second=Quartiles(19.0, 20.0, 21.0),
            speed_up=Quartiles(1.9, 2.0, 2.1),
            host_latency_ms=Latency(2.0, 3.0),
            latency_ms=Latency(1.0, 2.0),
            host_peak_memory_mb=2.0,
            peak_memory_mb=1.0,
            tokens={3: 32.0},
        )


@pytest.fixture
def made_up(monkeypatch):
    def use(*spreads):
        speed = MadeUpSpeed(*spreads)
        monkeypatch.setattr(measuring.reduction, "speed", speed)
        return speed

    return use


def configuration(cell, compiled=False, precision="auto"):
    return Configuration.of(cell, None, precision, compiled=compiled)


def records(cell, batch_sizes=(2,), trained=None, **kwargs):
    return dict(measure(configuration(cell, **kwargs), batch_sizes, Effort(7, 0.1), PLACE, trained))


def test_a_cell_is_measured_at_every_batch_size(small_cell):
    found = records(small_cell("topk"), (1, 2))
    assert list(found) == [1, 2]
    for record in found.values():
        assert 7 <= record["rounds"] <= 28
        assert record["precision"] == "float32"
        assert record["tokens"] == {"1": 32.0}
        low, median, high = record["speed_up"]
        assert 0 < low <= median <= high
        assert record["compiled"] is False
        assert record["measured"].endswith("+00:00")


def test_weights_have_the_precision(small_cell, made_up):
    speed = made_up()
    (record,) = records(small_cell("topk"), precision="bf16").values()
    assert record["precision"] == "bfloat16"
    assert {weight.dtype for weight in speed.calls[0][0].parameters()} == {torch.bfloat16}


def test_what_was_not_disturbed_stands(small_cell, made_up):
    speed = made_up(0.02)
    (record,) = records(small_cell("topk")).values()
    assert (record["disturbed"], record["tries"], record["note"]) == (False, 1, None)
    assert len(speed.calls) == 1


@pytest.mark.parametrize(
    ("spreads", "spread", "disturbed"),
    [((0.3, 0.05), 0.05, False), ((0.3, 0.2), 0.2, True), ((0.2, 0.3), 0.2, True)],
)
def test_what_was_disturbed_is_tried_once_more(small_cell, made_up, spreads, spread, disturbed):
    speed = made_up(*spreads)
    (record,) = records(small_cell("topk")).values()
    assert record["host_spread"] == pytest.approx(spread)
    assert (record["disturbed"], record["tries"]) == (disturbed, 2)
    assert record["note"] == ("the host's own rounds spread by 20%" if disturbed else None)
    assert len(speed.calls) == 2


def test_a_gpu_that_is_too_small_is_an_outcome(small_cell, made_up):
    made_up(0.0, torch.OutOfMemoryError("CUDA out of memory"))
    found = records(small_cell("topk"), (1, 128))
    assert found[1]["note"] is None
    assert found[128]["note"] == "the GPU's memory is too small"
    assert "speed_up" not in found[128]


def test_what_does_not_compile_is_measured_without(small_cell, made_up):
    speed = made_up(RuntimeError("no compiler"), 0.0, 0.0)
    found = records(small_cell("topk"), (1, 2), compiled=True)
    assert [call["compiled"] for _, call in speed.calls] == [True, False, False]
    assert {record["compiled"] for record in found.values()} == {False}
    assert found[1]["note"] == "not compiled: RuntimeError"


def test_an_error_without_compiling_is_one(small_cell, made_up):
    made_up(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        records(small_cell("topk"))


def test_ats_sees_its_own_images_with_its_own_weights(make_cell, image_folder, made_up):
    cell, speed = make_cell("ats", pretrained=True), made_up()
    dataset = open_dataset("folder", image_folder)
    model = build_model(cell, len(dataset.class_names))
    trained = TrainedCell(model.state_dict(), image_folder, None)
    (record,) = records(cell, trained=trained, compiled=True).values()
    measured, call = speed.calls[0]
    assert torch.equal(measured.head.weight, model.head.weight)
    assert not call["compiled"]
    assert "another number of tokens" in record["note"]
    images = call["images"]
    assert images.shape == (128, 3, 32, 32)
    spread = np.linspace(0, len(dataset.val) - 1, 128).round().astype(int)
    pixels = [np.asarray(dataset.val.image(int(index))) for index in spread]
    expected = (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    assert torch.allclose(images, expected, atol=1e-6)
