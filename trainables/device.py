"""Which device a process computes on."""

import os

import torch

DEVICE = "TOKENSWEEP_DEVICE"
"""Environment variable: `cpu` computes there although Ray reserves GPUs.

That tries out how a study would be scheduled, on a cluster that only says it has GPUs.
"""


def device_for(gpu: float) -> torch.device:
    """Return the device of a process that has reserved `gpu` GPUs, or a share of one."""
    return torch.device(os.environ.get(DEVICE, "cuda") if gpu else "cpu")
