"""The example of FSDP2 trains as one process does on the batches of both."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch.nn.functional import cross_entropy

import reduction

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "sharded_training.py"


def in_one_process():
    """The losses of the same steps, each on the batches of both processes together."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4, num_classes=10)
    model = reduction.reduce(vit, "tome", r=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generators = [torch.Generator().manual_seed(rank) for rank in range(2)]
    losses = []
    for _ in range(3):
        batches = [
            (torch.randn(4, 3, 64, 64, generator=own), torch.randint(10, (4,), generator=own))
            for own in generators
        ]
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
def test_two_processes_train_as_one():
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    run = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", run.stdout)]
    assert losses == pytest.approx(in_one_process(), abs=2e-4)
    assert len(set(losses)) == 3
