"""What a process computes on follows from what it has reserved."""

import pytest

from trainables.models.device import DEVICE, device_for


@pytest.mark.parametrize(("gpu", "device"), [(0.0, "cpu"), (0.25, "cuda"), (1.0, "cuda")])
def test_a_reserved_gpu_is_used(monkeypatch, gpu, device):
    monkeypatch.delenv(DEVICE, raising=False)
    assert device_for(gpu).type == device


@pytest.mark.parametrize("gpu", [0.0, 0.25])
def test_a_schedule_can_be_tried_out_without_gpus(monkeypatch, gpu):
    monkeypatch.setenv(DEVICE, "cpu")
    assert device_for(gpu).type == "cpu"
