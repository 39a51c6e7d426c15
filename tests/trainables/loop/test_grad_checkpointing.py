"""Computing blocks again in the backward pass: the same weights from less memory."""

import pytest
import torch

RECIPE = {"batch_size": 40, "epochs": 1, "drop_path": 0.3, "warmup_lr": 1e-3}


@pytest.mark.parametrize("method", ["deit", "topk", "tome", "dynamicvit", "ats"])
def test_weights_are_the_same_to_the_last_bit(make_cell, finetune, method):
    states = []
    for again in (False, True):
        cell = make_cell(
            method, keep_rate=1.0 if method == "deit" else 0.5, grad_checkpointing=again, **RECIPE
        )
        finetuning = finetune(cell)
        assert finetuning.model.grad_checkpointing is again
        finetuning.run(lambda training=finetuning: training.step == 2)
        states.append(finetuning.state_dict())
    kept, computed = states
    assert kept["step"] == 2
    for part in ("model", "ema"):
        assert all(torch.equal(kept[part][n], x) for n, x in computed[part].items())


def kept_bytes(finetuning):
    """Return how much a forward pass keeps for the backward pass, parameters left out."""
    sizes = {}
    parameters = {parameter.data_ptr() for parameter in finetuning.model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            sizes[storage.data_ptr()] = (storage.nbytes(), tensor)  # Lives as long as this.
        return tensor

    finetuning.model.train()
    images, _, _ = finetuning.data.normalise(next(iter(finetuning.data.train_batches(0))))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        finetuning._forward(images)
    return sum(size for size, _ in sizes.values())


@pytest.mark.parametrize("method", ["topk", "dynamicvit"])
def test_less_is_kept_of_a_forward_pass(make_cell, finetune, method):
    everything, little = (
        kept_bytes(finetune(make_cell(method, grad_checkpointing=again, **RECIPE)))
        for again in (False, True)
    )
    assert little < 0.6 * everything
