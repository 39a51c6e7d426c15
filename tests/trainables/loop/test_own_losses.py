"""What methods train beside the classification learns: their own terms fall within some steps."""

import copy

import numpy as np
import pytest
import torch

import reduction
from trainables.data import open_dataset
from trainables.loop.objective import Objective
from trainables.models.passes import TrainingPass

STEPS = 12
CASES = {
    "dynamicvit": ("keep rate", {}, {}),
    "cropr": ("auxiliary heads", {}, {}),
    "dtem": ("classification", {}, {}),
    "idlevit": ("token cut", {}, {}),
    "mctf": ("fuller pass", {}, {}),
    # The host has a hundred-thousandth of the cost that the published weight is for.
    "diffrate": ("FLOPs", {"learned": True}, {"flops_weight": 1e8}),
}
"""Method -> its own term, its options, its recipe's fields."""
LEAST = {"dtem": 1e-4}
"""How much the term falls, relative to the start, at least. The host has learned nothing yet, and
which of its tokens merge matters little."""


@pytest.fixture(scope="module")
def batch():
    """32 digits, normalised, and their classes."""
    digits = open_dataset("digits").train
    images = np.stack([np.asarray(digits.image(index)) for index in range(32)])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels, torch.from_numpy(digits.targets[:32])


@pytest.mark.parametrize("method", CASES)
def test_the_method_s_own_term_falls(small_host, make_cell, batch, method):
    """Of parameters, those of the method alone learn, where it has any."""
    term, options, fields = CASES[method]
    torch.manual_seed(0)
    block = 0 if method == "dtem" else 1  # Merged in the last one, no token reaches the logits.
    host = copy.deepcopy(small_host)
    model = reduction.reduce(host, method, keep_rate=0.5, reduction_loc=(block,), **options).train()
    forward = TrainingPass(model)
    plain = {"mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0}
    objective = Objective(make_cell(method, options=options, **plain, **fields), "single_label")
    own = list(model.stages.parameters())
    optimizer = torch.optim.AdamW(own or model.parameters(), lr=2e-2 if own else 2e-3)
    found = []
    for _ in range(STEPS):
        torch.manual_seed(1)  # Draws are the same in every step.
        np.random.seed(1)  # noqa: NPY002
        terms = objective(forward(batch[0]), None, batch[1])
        found.append(terms[term].item())
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    assert found[-1] < (1 - LEAST.get(method, 0.05)) * found[0], found
