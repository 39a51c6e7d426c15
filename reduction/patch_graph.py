"""Graphs of patches: who is near whom, and who is like whom."""

import torch
import torch.nn.functional as F
from torch import Tensor

from reduction.tokens import at_least_float32, without_autocast

KINDS = ("mixed", "spatial", "semantic")


@torch.no_grad()
def patch_graph(kind: str, x: Tensor, grid: tuple[int, int], k: int) -> tuple[Tensor, Tensor]:
    """Return the edges [B, N, N] bool of a graph of patches, and a factor [B, N] for each end.

    The factors normalise the weight of an edge, their product, by the degrees of both ends. Apart
    from the edges they take a quarter of the memory of the weights.

    Xu et al., GTP-ViT, WACV 2024, section 3.2.

    Args:
        kind: `spatial` joins patches that touch, `semantic` those alike, `mixed` both.
        x: [B, N, C] embedded patches.
        grid: Rows and columns of these.
        k: Patches that each is alike to; that need not be mutual.
    """
    x = at_least_float32(x)
    edges = torch.zeros(1, 1, 1, dtype=torch.bool, device=x.device)
    if kind != "semantic":
        edges = edges | _touching(grid, x.device)
    if kind != "spatial":
        edges = edges | _alike(x, k)
    others = ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    edges = (edges & others).expand(x.shape[0], -1, -1)
    return edges, edges.sum(dim=-1, dtype=x.dtype).rsqrt()


def _touching(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return which patches [N, N] touch, corners included."""
    places = torch.cartesian_prod(*(torch.arange(side, device=device) for side in grid))
    return (places[:, None] - places).abs().amax(dim=-1) <= 1


def _alike(x: Tensor, k: int) -> Tensor:
    """Return the `k` others that are most similar to each row of x by cosine, [B, N, N]."""
    unit = F.normalize(x, dim=-1)
    with without_autocast(unit):
        cosine = unit @ unit.mT
    least = cosine.topk(min(k + 1, x.shape[1]), dim=-1).values[..., -1:]
    return cosine >= least
