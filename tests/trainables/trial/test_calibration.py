"""What a training takes, measured on made-up images through the code that trains."""

import pytest
import torch

from reduction import METHODS
from trainables.cell.cell import Cell
from trainables.recipe import Recipe
from trainables.trial.calibration import (
    measure,
    measure_apart,
    rehearsal,
    seconds_a_step,
)

HOST = "digits_tiny_patch4_32"


def cell(method="topk", keep_rate=0.5, batch_size=8, **recipe):
    fields = {"host": HOST, "image_size": 32, "batch_size": batch_size, "accumulation": 3}
    return Cell(
        dataset="imagenet",
        method=method,
        capacity="tiny",
        keep_rate=keep_rate,
        reduction_loc=(3, 6, 9),
        recipe=Recipe(**fields | recipe),
    )


DISTILLING = {"distillation": "dynamicvit"}


@pytest.mark.parametrize(
    "rehearsed",
    [
        cell(),
        cell(method="dynamicvit", **DISTILLING),
        cell(method="dynamicvit", teacher=HOST, **DISTILLING),
        cell(mixup=0.0, cutmix=0.0, ema_decay=None, cache=64),
    ],
    ids=["plain", "taught by the baseline", "taught by a network", "without average"],
)
def test_a_cell_is_measured_without_its_data_and_weights(rehearsed):
    measured = measure(rehearsed.model_dump_json(), None, 0, 1)
    assert measured["seconds_an_image"] > 0
    assert measured["macs_an_image"] > 1e6
    assert measured["device_bytes"] is None


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_takes_a_step(method):
    training = rehearsal(
        cell(method, 1.0 if method == "deit" else 0.5, batch_size=2),
        host_weights=None,
        device=torch.device("cpu"),
        threads=1,
    )
    assert seconds_a_step(training) > 0
    assert training.step == 1


def test_a_process_of_its_own_tells_what_more_images_take():
    small, large = (
        measure_apart(cell(batch_size=size).model_dump_json(), None, 0, 1) for size in (2, 256)
    )
    images = 254 * 2 * 3 * 32 * 32 * 4  # The images and what mixup makes of them, at the least.
    assert large["peak_bytes"] > small["peak_bytes"] + images
    assert large["macs_an_image"] == small["macs_an_image"]
