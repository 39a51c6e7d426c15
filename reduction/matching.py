"""Pairing tokens: who joins whom, in the form that all matching methods share."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reduction.tokens import gather_tokens, largest, without_autocast


class Matching(NamedTuple):
    """Tokens that stay, and tokens that join one of these."""

    left: Tensor
    """[B, K] tokens that stay, in the order of the output."""
    merged: Tensor
    """[B, M] tokens that join others."""
    into: Tensor
    """[B, M] place, in `left`, of the token that each of `merged` joins."""

    def assignment(self, count: int) -> Tensor:
        """Return the output [B, N] of each of `count` tokens, -1 for those in neither list."""
        gone = self.left.new_full((self.left.shape[0], count), -1)
        places = torch.arange(self.left.shape[1], device=gone.device).expand_as(self.left)
        return gone.scatter(1, self.left, places).scatter(1, self.merged, self.into)

    def members(self, dtype: torch.dtype) -> Tensor:
        """Return how many tokens each output is made of, [B, K] in a float `dtype`."""
        ones = torch.ones_like(self.left, dtype=dtype)
        return ones.scatter_add(1, self.into, torch.ones_like(self.into, dtype=dtype))


@torch.no_grad()
def nearest(features: Tensor, sources: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest cosine [B, S] of each source with any target, and that target [B, S].

    Args:
        features: [B, N, D] of all tokens.
        sources: [B, S] tokens, or one list [S] for all images.
        targets: [B, T] tokens, or one list [T] for all images; the first of equal ones is taken.
    """
    unit = F.normalize(features, dim=-1)
    with without_autocast(unit):
        return (_rows(unit, sources) @ _rows(unit, targets).mT).max(dim=-1)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    return x[:, index] if index.ndim == 1 else gather_tokens(x, index)


@torch.no_grad()
def bipartite_matching(metric: Tensor, merges: int, *, num_prefix: int) -> Matching:
    """Match tokens at even places of the sequence with the most similar ones at odd places.

    Bolya et al., Token Merging, ICLR 2023, section 3.

    Args:
        metric: [B, N, D] of the patch tokens.
        merges: Pairs to merge, at most N // 2.
        num_prefix: P, tokens before the patches, which count as places of the sequence.

    Returns:
        The best `merges` proposals. First the tokens at even places that do not merge, ascending,
        then all at odd ones.
    """
    places = torch.arange(metric.shape[1], device=metric.device)
    evens, odds = places[num_prefix % 2 :: 2], places[1 - num_prefix % 2 :: 2]
    similarity, partner = nearest(metric, evens, odds)
    merged, unmerged = largest(similarity, len(evens)).tensor_split([merges], dim=1)
    stay = torch.cat((evens[unmerged.sort(dim=1).values], odds.expand(metric.shape[0], -1)), dim=1)
    into = partner.gather(1, merged) + len(evens) - merges
    return Matching(stay, evens[merged], into)


@torch.no_grad()
def two_way_matching(
    x: Tensor, factors: Tensor, merges: tuple[int, int], *, order: int, num_prefix: int
) -> Tensor:
    """Return where each patch token goes when even places join odd ones, then odd ones even ones.

    Args:
        x: [B, N, C] patch tokens.
        factors: [B, N] how much each token lends itself to merging.
        merges: Tokens to merge at first, and in total, at most N // 2.
        order: Root of the tokens' similarity that counts; 0 for none of it.
        num_prefix: P, tokens before the patches, which count as places of the sequence.

    Returns:
        [B, N] positions in 0..N - merges - 1: first the tokens left at even places, ascending, then
        those at odd ones, by decreasing proposal if any of them merge.
    """
    evens, odds = slice(num_prefix % 2, None, 2), slice(1 - num_prefix % 2, None, 2)
    unit = F.normalize(x, dim=-1)
    weights = factors[:, evens, None] * factors[:, None, odds]
    if order:
        with without_autocast(unit):
            cosine = unit[:, evens] @ unit[:, odds].mT
        weights = weights * ((cosine + 1) / 2).clamp(min=0) ** (1 / order)
    first, total = merges
    proposal, partner = weights.max(dim=2)
    joins = torch.zeros_like(partner, dtype=torch.bool)
    chosen = largest(proposal, first)
    hits = torch.ones_like(chosen, dtype=torch.bool)  # torch.jit.trace takes no plain True
    joins = joins.scatter(1, chosen, hits)
    even_place = (~joins).cumsum(dim=1) - 1

    proposal, even_partner = weights.masked_fill(joins[:, :, None], -torch.inf).max(dim=1)
    if first == total:
        proposal = -torch.arange(proposal.shape[1], device=x.device).expand_as(proposal)
    joining, staying = largest(proposal, proposal.shape[1]).tensor_split([total - first], dim=1)
    places = torch.arange(staying.shape[1], device=x.device) + partner.shape[1] - first
    odd_place = torch.empty_like(even_partner).scatter(1, staying, places.expand_as(staying))
    into = even_place.gather(1, even_partner.gather(1, joining))
    odd_place = odd_place.scatter(1, joining, into)

    assignment = partner.new_empty(x.shape[:2])
    assignment[:, odds] = odd_place
    assignment[:, evens] = torch.where(joins, odd_place.gather(1, partner), even_place)
    return assignment
