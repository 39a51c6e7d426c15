"""DTEM's soft merging, with its gradients, against arrays made by running its authors' code."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reduction.methods.dtem import PARTNERS, soft_merge, soft_selection


@pytest.fixture(scope="module")
def arrays(golden_folder):
    with np.load(golden_folder / "newer_training_A.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


@pytest.fixture(params=[0, 3, 7])
def operator(request, arrays):
    """Inputs without CLS in float64, and what comes out of them, at a block."""
    prefix = f"dtem/soft_block{request.param}/"
    found = {n.removeprefix(prefix): x for n, x in arrays.items() if n.startswith(prefix)}
    patches = {name: found[name][:, 1:].double() for name in ("x", "size", "metric")}
    merges, active = found["r_n"].tolist()
    return patches, merges, active - 1, found


def similar(metric, active):
    """Return the similarities of each giving token with its most similar partners, and who."""
    unit = F.normalize(metric[:, :active], dim=-1)
    return (unit[:, ::2] @ unit[:, 1::2].mT).topk(PARTNERS, dim=-1)


def test_features_and_sizes(operator):
    """The arrays have the tokens that give first, then those that take."""
    patches, merges, active, expected = operator
    features, sizes = soft_merge(*patches.values(), merges, active)
    for found, name in ((features, "x_out_f64"), (sizes, "size_out_f64")):
        ordered = torch.cat((found[:, :active:2], found[:, 1:active:2]), dim=1)
        torch.testing.assert_close(ordered, expected[name], rtol=0, atol=1e-12)
    assert torch.equal(features[:, active:], patches["x"][:, active:]), "inactive tokens rest"


def test_weights_and_their_gradient(operator):
    patches, merges, active, expected = operator
    top = similar(patches["metric"], active)
    assert torch.equal(top.indices, expected["top"].long())
    similarity = top.values.requires_grad_()
    weights = soft_selection(similarity, merges)
    torch.testing.assert_close(weights, expected["weight_f64"], rtol=0, atol=1e-12)
    images, rows, columns = torch.meshgrid(
        *(torch.arange(1, 1 + n) for n in (len(weights), weights.shape[1])),
        torch.arange(1, 1 + active // 2),
        indexing="ij",
    )
    angles = 0.1 * (rows * columns).double() + images - 1
    factors = angles.sin().gather(2, top.indices)
    (weights * factors).sum().backward()
    torch.testing.assert_close(similarity.grad, expected["grad_f64"], rtol=0, atol=1e-10)


def test_in_single_precision(operator):
    patches, merges, active, expected = operator
    top = similar(patches["metric"], active)
    weights = soft_selection(top.values.float(), merges)
    torch.testing.assert_close(weights.double(), expected["weight_f64"], rtol=0, atol=1e-4)
