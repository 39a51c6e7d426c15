"""Train a reduced model under FSDP2: each process keeps its share of the parameters.

    torchrun --nproc-per-node 2 examples/sharded_training.py

trains on noise and on CPUs; with GPUs, the backend is `nccl` and the mesh one of `cuda`.
"""

import timm
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

import reduction

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (dist.get_world_size(),))

torch.manual_seed(0)  # the same weights everywhere
vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4, num_classes=10)
model = reduction.reduce(vit, "tome", r=2)
for block in model.blocks:
    fully_shard(block, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

own = torch.Generator().manual_seed(dist.get_rank())
for step in range(3):
    images = torch.randn(4, 3, 64, 64, generator=own)
    labels = torch.randint(10, (4,), generator=own)
    loss = cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    mean = loss.detach() / dist.get_world_size()
    dist.all_reduce(mean)
    if dist.get_rank() == 0:
        print(f"step {step}: loss {mean:.4f}")
dist.destroy_process_group()
