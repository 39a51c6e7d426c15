"""The memory of a pass of every method, beside its host's; counted, hence the same every time."""

import pytest
import timm
import torch

import reduction
from reduction.timing import peak_memory


@pytest.fixture(scope="module")
def host():
    return timm.create_model("deit_tiny_patch16_224", depth=2).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def limit(host, images):
    with torch.inference_mode():
        return peak_memory(host, images)


@pytest.mark.parametrize("method", reduction.METHODS)
def test_no_more_than_the_host_s(host, images, limit, method):
    first = 1 if method == "kmedoids" else 0  # It looks back at a block.
    for keep_rate in (0.25, 0.9):  # A stage holds more of what goes, or of what stays.
        model = reduction.reduce(host, method, keep_rate=keep_rate, reduction_loc=(first,))
        with torch.inference_mode():
            assert peak_memory(model, images) <= limit, keep_rate
