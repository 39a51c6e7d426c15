"""How like the features of a reduced host are those of the host without reduction.

M images, C features. What is nearest is so by cosine.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

NEIGHBOURS = 10
"""Nearest other images of an image; all others where there are fewer."""
SIMILARITIES_AT_ONCE = 2**24
"""Numbers held at a time: 64 MiB."""


class Likeness(NamedTuple):
    """What is found of every image."""

    cosine: Tensor
    """Cosine to the host's feature, float32 [M], in [-1, 1]."""
    neighbours: Tensor
    """Share of its nearest other images that are nearest for the host, too, float32 [M]."""
    vote: Tensor | None
    """Label of most of its nearest other images, int64 [M]; the lowest of several."""


def compare(features: Tensor, of_host: Tensor, labels: Tensor | None) -> Likeness:
    """Compare pooled features with those of the host without reduction.

    Args:
        features: Float32 [M, C], of 2 images or more.
        of_host: The same of the host, on the same device.
        labels: int64 [M], on the same device; None where there are none.
    """
    own = nearest(features)
    vote = None if labels is None else majority(labels[own])
    if of_host is features:
        one = torch.ones(len(features), device=features.device)
        return Likeness(one, one, vote)
    cosine = functional.cosine_similarity(features, of_host).clamp(-1, 1)
    return Likeness(cosine, _shared(own, nearest(of_host)), vote)


def nearest(features: Tensor, count: int = NEIGHBOURS) -> Tensor:
    """Return each image's nearest other images, the nearest first.

    Args:
        features: Float32 [M, C].
        count: How many; all others where there are fewer.

    Returns:
        int64 [M, min(count, M - 1)].
    """
    unit = functional.normalize(features)
    images = len(unit)
    rows = max(1, SIMILARITIES_AT_ONCE // images)
    found = []
    for start in range(0, images, rows):
        similar = unit[start : start + rows] @ unit.T
        own = torch.arange(len(similar), device=similar.device)
        similar[own, own + start] = -torch.inf
        found.append(similar.topk(min(count, images - 1), dim=1).indices)
    return torch.cat(found)


def majority(labels: Tensor) -> Tensor:
    """Return the label that most of each row have, the lowest of several; of [M, K] int64, [M]."""
    votes = (labels[:, :, None] == labels[:, None, :]).sum(dim=2)
    most = votes == votes.amax(dim=1, keepdim=True)
    return labels.masked_fill(~most, torch.iinfo(labels.dtype).max).amin(dim=1)


def _shared(a: Tensor, b: Tensor) -> Tensor:
    """Return the share of each row of distinct indices [M, K] that the other's row has, too."""
    both = torch.cat([a, b], dim=1).sort(dim=1).values
    return (both[:, 1:] == both[:, :-1]).float().sum(dim=1) / a.shape[1]
