"""What only a CUDA device can show; collected where there is one."""

import pytest
import torch

import reduction

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
