"""Blocks that reduce are modules like any other: hooks, checkpointing, FSDP2 and compilation."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import reduction

METHODS = ["topk", "tome", "ats", "kmedoids", "dynamicvit", "dpcknn", "sit"]


def reduced(host, method):
    torch.manual_seed(1)
    return reduction.reduce(host, method, keep_rate=0.5, reduction_loc=(1, 2))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("method", reduction.METHODS)
def test_hooks_see_the_features_of_every_block(small_host, small_images, method, training):
    model = reduced(small_host, method).train(training)
    seen = {}
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(
            lambda _, args, output, index=index: seen.update({index: (args[0], output)})
        )
    model(small_images)
    assert list(seen) == [0, 1, 2, 3]
    shapes = [x.shape[::2] for pair in seen.values() for x in pair]
    assert shapes == [(3, 32)] * 8
    for index in range(3):  # stages before a block take tokens away between the two
        assert seen[index][1].shape[1] >= seen[index + 1][0].shape[1]


def saved_bytes(model, images):
    """Bytes of distinct tensors, parameters left out, that a forward pass keeps for backward."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = model(images).square().sum()
    loss.backward()
    return sum(size for size, _ in kept.values())


def test_checkpointing_saves_as_on_the_host(make_host, small_images):
    saved = []
    for reduce in (lambda host: host, lambda host: reduction.reduce(host, "tome", r=2)):
        model = reduce(make_host(depth=8)).train()
        plain = saved_bytes(model, small_images)
        model.set_grad_checkpointing()
        saved.append(plain - saved_bytes(model, small_images))
    assert saved[1] >= 0.6 * saved[0] > 0


@pytest.mark.parametrize("method", METHODS)
def test_checkpointing_changes_no_gradient(make_host, small_images, method):
    gradients, traces = [], []
    for checkpointing in (False, True):
        model = reduced(make_host(), method)
        model.set_grad_checkpointing(checkpointing)
        model.train()
        torch.manual_seed(3)
        logits, trace = model.forward_with_trace(small_images)
        logits.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        traces.append(trace)
    torch.testing.assert_close(*gradients)
    for name in ("kept", "groups", "tokens"):
        one, other = (getattr(trace, name) for trace in traces)
        assert all(torch.equal(one[block], other[block]) for block in one)


@pytest.mark.parametrize("method", ["topk", "tome", "kmedoids"])
def test_each_block_compiles(small_host, small_images, method):
    torch.compiler.reset()
    model = reduced(small_host, method)
    expected = model(small_images)
    for block in model.blocks:
        block.compile(backend="eager", dynamic=False, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(model(small_images), expected)
    torch.compiler.reset()


@pytest.fixture(scope="module")
def mesh():
    """One process is a group, too: parameters are sharded, if into one shard."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("method", METHODS)
def test_fsdp2_of_each_block(make_host, small_images, mesh, method):
    expected = reduced(make_host(), method)
    model = reduced(make_host(), method)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    outputs = []
    for network in (expected, model):
        network.train()
        torch.manual_seed(2)
        outputs.append(network(small_images))
        outputs[-1].square().sum().backward()
    torch.testing.assert_close(*outputs)
    gradients = dict(expected.named_parameters())
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor), name
        torch.testing.assert_close(parameter.grad.full_tensor(), gradients[name].grad)


def test_open_blocks_copy_pickle_and_close(small_host, small_images):
    model = reduced(small_host, "topk")
    block = model.blocks[1]
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert type(twin) is type(block)
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(block(x), small_host.blocks[1](x))
    plain = reduction.unreduce(model)
    assert [type(one) for one in plain.blocks] == [type(one) for one in small_host.blocks]
    assert torch.equal(plain(small_images), small_host(small_images))
