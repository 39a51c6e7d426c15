"""What holds for every method on every kind of host."""

import torch

import reduction
from reduction.stage import has_cls

LEAVE_AS_IT_IS = sorted({*reduction.METHODS} - {"ats", "gtp", "sit", "patchmerger", "sinkhorn"})
"""Methods that, asked for nothing, compute what the host does."""
DROP = ["topk", "ats", "dynamicvit", "cropr", "random", "l2"]
"""Methods that drop tokens and do nothing else to them."""
AFTER = {"topk", "ats"}
"""Of these, those that drop them after the block's attention."""


def reduced(host, method, **changes):
    """Reduce a host at two blocks; without a CLS token, by the attention received."""
    torch.manual_seed(1)
    if reduction.METHODS[method].needs_cls and not has_cls(host):
        changes = {"score": "received"} | changes
    return reduction.reduce(host, method, **{"reduction_loc": (1, 2)} | changes)


def assert_nothing_reduced_is_the_host(host, images):
    expected = host(images)
    for method in LEAVE_AS_IT_IS:
        torch.testing.assert_close(
            reduced(host, method)(images), expected, rtol=0, atol=1e-5, msg=method
        )


def assert_images_do_not_see_their_batch(host, images):
    """Three images; features and head apart are the whole pass."""
    for method in reduction.METHODS:
        model = reduced(host, method, keep_rate=0.6)
        together = model(images)
        alone = model(images[2:], image_index=torch.tensor([2]))
        torch.testing.assert_close(alone, together[2:], rtol=0, atol=1e-5, msg=method)
        apart = model.forward_head(model.forward_features(images))
        torch.testing.assert_close(apart, together, rtol=0, atol=1e-5, msg=method)
