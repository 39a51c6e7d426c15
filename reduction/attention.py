"""A block's attention, opened up: what methods may see of it, and its output for chosen rows."""

import copy
from typing import Any, Self

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn

from reduction.projections import combine, forward_of, project
from reduction.tokens import (
    Tokens,
    at_least_float32,
    gather_tokens,
    sum_by_group,
    without_autocast,
)


class AttentionView:
    """Queries, keys and values of one block; what else a method needs is computed when asked.

    The attention itself stays fused, so that no method pays for a map it does not look at.
    """

    def __init__(self, attention: Any, x: Tensor, tokens: Tokens) -> None:
        """Project the normalised tokens x [B, P + N, C] of `tokens`."""
        self.attention = attention
        self.x = x
        self.num_prefix = tokens.num_prefix
        self._look_at(tokens)
        self.filter = tokens.attention_filter
        self.queries, self.keys, self.values = project(
            attention, x, tokens.rotation(), tokens.num_prefix
        )
        """[B, H, P + N, D] each; queries and keys as the softmax sees them, rotated."""
        self._peaks: tuple[Tensor, Tensor] | None = None
        self._groups: tuple[Tensor, Tensor] | None = None

    def take(self, rows: Tensor, tokens: Tokens) -> Self:
        """Return the same of some tokens alone, `rows` [B, K] of all; they now are `tokens`."""
        view = copy.copy(self)
        view.x = gather_tokens(self.x, rows)
        view.queries, view.keys, view.values = (
            gather_tokens(heads.transpose(1, 2), rows).transpose(1, 2)
            for heads in (self.queries, self.keys, self.values)
        )
        view._look_at(tokens)
        return view

    def merge(self, x: Tensor, tokens: Tokens, assignment: Tensor, shares: Tensor) -> Self:
        """Return the same attention among groups: columns add up, rows are averaged.

        Every token brings its group's value and asks by itself, so that no map has to be there.

        Args:
            x: [B, K, C] normalised features of the groups.
            tokens: The groups.
            assignment: [B, T] group of each token.
            shares: [B, T] weight of each token in its group's row; those of a group add up to 1.
        """
        view = copy.copy(self)
        view.x, view._groups = x, (assignment, shares)
        values = project(self.attention, x, tokens.rotation(), tokens.num_prefix)[2]
        view.values = gather_tokens(values.transpose(1, 2), assignment).transpose(1, 2)
        return view

    def _look_at(self, tokens: Tokens) -> None:
        """Take over what the tokens' attention depends on beside their features."""
        self.bias = tokens.attention_mask()
        if tokens.relative is not None and tokens.coordinates is not None:
            relative = tokens.relative.at(self.attention, tokens.coordinates)
            parts = [bias for bias in (relative, self.bias) if bias is not None]
            self.bias = sum(parts[1:], parts[0]) if parts else None
        self.policy = None if tokens.policy is None else tokens.with_prefix(tokens.policy)
        self.real = None if tokens.mask is None else tokens.with_prefix(tokens.mask)

    def probabilities(self, rows: slice, heads: slice) -> Tensor:
        """Softmax attention of the query `rows`, [B, heads, rows, P + N], at least float32.

        Out of autocast: scores rounded to bfloat16 tie, and ties decide which tokens stay.
        """
        with without_autocast(self.queries):
            queries = at_least_float32(self.queries[:, heads, rows]) * self.attention.scale
            logits = queries @ at_least_float32(self.keys[:, heads]).mT
            return self._softmax(logits, rows, heads)

    @property
    def cls_heads(self) -> Tensor:
        """[B, H, N] attention of the CLS token on each patch token, for each head."""
        if self._rounded:
            probabilities = self._softmax(self._exact_cls_logits(), slice(1), slice(None))
        else:
            probabilities = self.probabilities(slice(1), slice(None))
        return probabilities[:, :, 0, self.num_prefix :]

    def score_heads(self, score: str) -> Tensor:
        """[B, H, N] what patch tokens are ranked by, for each head.

        Args:
            score: `cls`, attention of the CLS token, or `received`, the mean over all queries that
                are no padding.
        """
        return self.cls_heads if score == "cls" else self._received_heads()

    def scores(self, score: str) -> Tensor:
        """[B, N] mean over heads of `score_heads`."""
        return self.score_heads(score).mean(dim=1)

    def _received_heads(self) -> Tensor:
        real = None if self.real is None else self.real[:, None, :, None].to(torch.float32)
        heads = []
        for head in range(self.attention.num_heads):  # one map at a time, for they are large
            head_map = self.probabilities(slice(None), slice(head, head + 1))
            if real is None:
                heads.append(head_map.mean(dim=2))
            else:
                heads.append((head_map * real).sum(dim=2) / real.sum(dim=2))
        return torch.cat(heads, dim=1)[:, :, self.num_prefix :]

    @property
    def received(self) -> Tensor:
        """[B, P + N] attention each token gets, summed over heads and queries; no gradient."""
        total = self.queries.new_zeros(())
        with torch.no_grad():
            for head in range(self.attention.num_heads):  # one map at a time, for they are large
                head_map = self.probabilities(slice(None), slice(head, head + 1))
                total = total + head_map.sum(dim=(1, 2))
        return total

    @property
    def peaks(self) -> tuple[Tensor, Tensor]:
        """[B, N] each: what patch tokens give themselves, and get from all; largest over heads.

        Of filtered attention, once `output` has gone through it; no gradient.
        """
        assert self._peaks is not None
        own, received = self._peaks
        return own[:, self.num_prefix :], received[:, self.num_prefix :]

    @property
    def mean_keys(self) -> Tensor:
        """[B, P + N, D] keys, mean over heads, at least float32."""
        if not self._rounded:
            return at_least_float32(self.keys).mean(dim=1)
        weight, bias = self._projection(1)
        with without_autocast(self.x):
            return F.linear(self.x, weight.mean(dim=0), None if bias is None else bias.mean(dim=0))

    def output(self, rows: Tensor | None) -> Tensor:
        """The attention module's output [B, K, C] for the queries `rows` [B, K]; None for all."""
        queries, x = self.queries, self.x
        if rows is not None:
            queries = gather_tokens(queries.transpose(1, 2), rows).transpose(1, 2)
            x = gather_tokens(x, rows)
        merged = self._attend(queries, self._bias_of(rows)).transpose(1, 2).flatten(2)
        if self._groups is not None:
            assignment, shares = self._groups
            mean = sum_by_group(merged * shares[..., None], assignment, x.shape[1])
            merged = mean.to(merged.dtype)
        return combine(self.attention, merged, x)

    @property
    def _rounded(self) -> bool:
        """Whether autocast has rounded queries and keys, where the projections are known."""
        attention = self.attention
        if self.keys.dtype == self.x.dtype or forward_of(attention) is not Attention.forward:
            return False
        norms = (attention.q_norm, attention.k_norm)
        known = all(isinstance(norm, nn.Identity) for norm in norms)
        return known and type(attention.qkv) is nn.Linear

    def _exact_cls_logits(self) -> Tensor:
        """[B, H, 1, P + N] scaled logits of the CLS token, out of autocast.

        The CLS token's query meets the keys' weights first, so that no key is projected again. The
        keys' bias adds the same to all logits of a query.
        """
        weight, bias = self._projection(0)
        with without_autocast(self.x):
            query = torch.einsum("bc,hdc->bhd", self.x[:, 0], weight)
            query = (query if bias is None else query + bias) * self.attention.scale
            return (torch.einsum("bhd,hdc->bhc", query, self._projection(1)[0]) @ self.x.mT)[
                :, :, None
            ]

    def _projection(self, part: int) -> tuple[Tensor, Tensor | None]:
        """Weight [H, D, C] and bias [H, D] of the queries (part 0) or keys (part 1)."""
        qkv, shape = self.attention.qkv, (3, self.attention.num_heads, self.attention.head_dim)
        bias = None if qkv.bias is None else qkv.bias.unflatten(0, shape)[part]
        return qkv.weight.unflatten(0, shape)[part], bias

    def _softmax(self, logits: Tensor, rows: slice, heads: slice) -> Tensor:
        bias = self.bias
        if bias is not None and bias.shape[2] > 1:  # not of the keys alone
            bias = bias[:, heads, rows]
        logits = logits if bias is None else logits + bias
        if self.policy is not None:
            return policy_softmax(logits, self.policy, rows)
        probabilities = logits.softmax(dim=-1)
        return probabilities if self.filter is None else self.filter(probabilities)

    def _bias_of(self, rows: Tensor | None) -> Tensor | None:
        """Return the bias of the queries `rows` [B, K], or of all."""
        bias = self.bias
        if bias is None or rows is None or bias.shape[2] == 1:
            return bias
        index = rows[:, None, :, None].expand(-1, bias.shape[1], -1, bias.shape[3])
        return bias.expand(rows.shape[0], -1, -1, -1).gather(2, index)

    def _attend(self, queries: Tensor, bias: Tensor | None) -> Tensor:
        attention = self.attention
        dropout = attention.attn_drop.p if attention.training else 0.0
        if self.policy is not None:
            return self._attend_by_policy(queries, self.policy, bias, dropout)
        if self.filter is not None:
            return self._attend_by_maps()
        bias = None if bias is None else bias.to(queries.dtype)
        if attention.fused_attn:
            return F.scaled_dot_product_attention(
                queries, self.keys, self.values, attn_mask=bias, dropout_p=dropout
            )
        logits = (queries * attention.scale) @ self.keys.mT
        weights = (logits if bias is None else logits + bias).softmax(dim=-1)
        return attention.attn_drop(weights) @ self.values

    def _attend_by_maps(self) -> Tensor:
        heads = []
        for head in range(self.attention.num_heads):  # one map at a time, for they are large
            head_map = self.probabilities(slice(None), slice(head, head + 1))[:, 0]
            self._note_peaks(head_map.detach())
            weights = self.attention.attn_drop(head_map).to(self.values.dtype)
            heads.append(weights @ self.values[:, head])
        return torch.stack(heads, dim=2).transpose(1, 2)  # as the output wants them

    def _note_peaks(self, head_map: Tensor) -> None:
        own, received = head_map.diagonal(dim1=1, dim2=2), head_map.sum(dim=1)
        if self._peaks is not None:
            own, received = self._peaks[0].maximum(own), self._peaks[1].maximum(received)
        self._peaks = own, received

    def _attend_by_policy(
        self, queries: Tensor, policy: Tensor, bias: Tensor | None, dropout: float
    ) -> Tensor:
        attention = self.attention
        if attention.fused_attn and not dropout and bias is None:
            return policy_attention(queries, self.keys, self.values, policy, attention.scale)
        scores = queries @ self.keys.mT * attention.scale
        probabilities = policy_softmax(scores if bias is None else scores + bias, policy)
        return attention.attn_drop(probabilities).to(queries.dtype) @ self.values


POLICY_EPS = 1e-6
"""Of DynamicViT's equation 11: it keeps a row's sum from vanishing."""


def policy_softmax(scores: Tensor, policy: Tensor, rows: slice = slice(None)) -> Tensor:
    """Return attention in which tokens see themselves and what the policy keeps, differentiably.

    Rao et al., DynamicViT, NeurIPS 2021, equation 11, with eps = 1e-6 and at least float32.

    Args:
        scores: [B, H, rows, T] scaled logits.
        policy: [B, T], 1 for tokens that are kept and 0 for others.
        rows: Of the T queries, those that there are scores of.
    """
    scores = at_least_float32(scores)
    itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)[rows]
    seen = torch.where(itself, 1.0, policy[:, None, None].to(scores.dtype))
    exponentials = (scores - scores.amax(dim=-1, keepdim=True)).exp() * seen
    total = exponentials.sum(dim=-1, keepdim=True)
    return (exponentials + POLICY_EPS / scores.shape[-1]) / (total + POLICY_EPS)


def policy_attention(
    queries: Tensor, keys: Tensor, values: Tensor, policy: Tensor, scale: float
) -> Tensor:
    """Return `policy_softmax` of the logits times the values, [B, H, T, D], by fused attention.

    The policy weighs the values instead of masking logits, so that it has a gradient where it is 0,
    too. One more channel of the values sums its weights. One more key, which has every query's
    largest logit, tells what a weight of 1 became in the softmax: with that, what a token sees of
    itself and eps can be added.

    Args:
        queries: [B, H, T, D].
        keys: [B, H, T, D].
        values: [B, H, T, D].
        policy: [B, T], 1 for tokens that are kept and 0 for others.
        scale: Factor of the logits, above 0.
    """
    dim, kept = values.shape[-1], policy[:, None, :, None].to(values.dtype)
    peak = _dot(queries, _best_keys(queries, keys)).to(queries.dtype)
    own = ((_dot(queries, keys) - peak) * scale).exp()
    width = (dim + 2 + 7) // 8 * 8  # Kernels want multiples of 8.
    markers = torch.eye(width, dtype=keys.dtype, device=keys.device)[:, None]
    marker_shape = (*keys.shape[:2], 1, width)
    weighed = torch.cat((values * kept, kept.expand(*values.shape[:3], 1)), dim=-1)
    sums = F.scaled_dot_product_attention(
        _widened(torch.cat((queries, peak), dim=-1), width),
        torch.cat((_widened(keys, width), markers[dim].expand(marker_shape)), dim=2),
        torch.cat((_widened(weighed, width), markers[dim + 1].expand(marker_shape)), dim=2),
        scale=scale,
    )
    average, weight, unit, _ = at_least_float32(sums).split((dim, 1, 1, width - dim - 2), dim=-1)
    itself, eps = own * unit * (1 - kept), POLICY_EPS * unit
    total = average + itself * values + eps * values.mean(dim=2, keepdim=True)
    return (total / (weight + itself + eps)).to(queries.dtype)


def _best_keys(queries: Tensor, keys: Tensor) -> Tensor:
    """Return for each query [B, H, T, D] the key that has the largest logit with it."""
    with torch.no_grad():
        best = (queries @ keys.mT).argmax(dim=-1)
    return gather_tokens(keys.flatten(0, 1), best.flatten(0, 1)).view_as(queries)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the products [B, H, T, 1] of the rows of two tensors, at least float32."""
    return (at_least_float32(a) * at_least_float32(b)).sum(dim=-1, keepdim=True)


def _widened(x: Tensor, width: int) -> Tensor:
    return F.pad(x, (0, width - x.shape[-1]))
