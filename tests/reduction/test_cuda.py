"""What only a CUDA device can show; collected where there is one."""

import pytest
import torch

import reduction
from reduction.agglomeration import LINKAGES, has_kernel, merged_one_by_one

FIXED = [name for name, info in reduction.METHODS.items() if info.fixed_budget]


@pytest.fixture
def images(small_images):
    return small_images.cuda()


def build(host, method):
    torch.manual_seed(1)
    return reduction.reduce(host.cuda(), method, keep_rate=0.6, reduction_loc=(1, 2))


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("method", ["deit", *FIXED])
def test_no_step_waits_for_the_device(small_host, images, method):
    model = build(small_host, method)
    model(images)  # once, a kernel is compared with plain code before it is used
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", ["deit", *FIXED])
def test_replays_as_a_cuda_graph(small_host, images, method):
    model = build(small_host, method)
    placeholder = images.clone()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        model(placeholder)  # what libraries allocate at their first call must not be captured
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = model(placeholder)
    others = images.flip(0) + 1
    placeholder.copy_(others)
    graph.replay()
    torch.testing.assert_close(logits, model(others))


@pytest.mark.parametrize("method", ["deit", *FIXED])
def test_compiles_into_one_graph(small_host, images, method):
    torch.compiler.reset()
    model = build(small_host, method)
    compiled = torch.compile(model, dynamic=False, fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [196, 98, 49])
@pytest.mark.parametrize("linkage", LINKAGES)
def test_the_kernel_of_atc_merges_as_plain_code_does(count, linkage):
    from reduction.agglomeration_kernel import merged_by_kernel

    torch.manual_seed(0)
    half = torch.rand(64, count, count, device="cuda").triu(1)
    half[32:] = (100 * half[32:]).floor() / 100  # many are equal
    distance = half + half.mT
    assert has_kernel(distance)
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    expected = merged_one_by_one(distance, count // 2, linkage)
    assert merged_by_kernel(distance, count // 2, linkage).equal(expected)
