"""Reduced models outside torch: `torch.export`, and ONNX run by onnxruntime."""

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import reduction

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text()
SECTION = PAGE.split("## Export")[1]
ROW = re.compile(r"^\| `(\w+)` \| (.+) \| (.+) \|$", re.MULTILINE)
TABLE = {method: (exported, onnx) for method, exported, onnx in ROW.findall(SECTION)}
BATCH = {"images": {0: torch.export.Dim("batch", min=2, max=64)}}
OPTIONS = {"ats": {"pad": "budget"}}


@pytest.fixture
def images():
    """Batches of two sizes, neither of which is the one that a model is exported with."""
    random = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, 20, 28, generator=random) for size in (2, 5)]


def reduced(host, method):
    torch.manual_seed(1)
    options = OPTIONS.get(method, {})
    return reduction.reduce(host, method, keep_rate=0.6, reduction_loc=(1, 2), **options).eval()


def works(method, column):
    return TABLE[method][column] == "yes"


def test_the_table_has_every_method():
    assert list(TABLE) == list(reduction.METHODS)


def test_budget_padding_changes_no_result(small_host, small_images):
    batch, budget = (
        reduction.reduce(small_host, "ats", keep_rate=0.6, reduction_loc=(1, 2), pad=pad)
        for pad in ("batch", "budget")
    )
    logits, trace = budget.forward_with_trace(small_images)
    torch.testing.assert_close(logits, batch(small_images), rtol=0, atol=1e-5)
    assert {block: kept.shape[1] for block, kept in trace.kept.items()} == {
        stage.spec.block: count for stage, count in zip(budget.stages, (21, 12), strict=True)
    }
    with pytest.raises(ValueError, match="^pad is 'all', but must be one of batch, budget$"):
        reduction.reduce(small_host, "ats", reduction_loc=(1,), pad="all")


@pytest.mark.slow
@pytest.mark.parametrize("method", [method for method in TABLE if works(method, 0)])
def test_torch_export(small_host, small_images, images, method):
    model = reduced(small_host, method)
    program = torch.export.export(model, (small_images,), dynamic_shapes=BATCH).module()
    for batch in images:
        torch.testing.assert_close(program(batch), model(batch), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", [method for method in TABLE if works(method, 1)])
def test_onnx_by_onnxruntime(small_host, small_images, images, method):
    model = reduced(small_host, method)
    program = torch.onnx.export(
        model, (small_images,), dynamo=True, dynamic_shapes=BATCH, verbose=False
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (name,) = (each.name for each in session.get_inputs())
    for batch in images:
        (logits,) = session.run(None, {name: batch.numpy()})
        np.testing.assert_allclose(logits, model(batch).detach().numpy(), rtol=0, atol=1e-5)
