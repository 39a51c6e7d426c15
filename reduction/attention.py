"""A block's attention, opened up: what methods may see of it, and its output for chosen rows."""

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn

from reduction.tokens import Tokens, at_least_float32, gather_tokens, without_autocast


class AttentionView:
    """Queries, keys and values of one block; what else a method needs is computed when asked.

    The attention itself stays fused, so that no method pays for a map it does not look at.
    """

    def __init__(self, attention: Attention, x: Tensor, tokens: Tokens) -> None:
        """Project the normalised tokens x [B, P + N, C] of `tokens`."""
        self.attention = attention
        self.x = x
        self.num_prefix = tokens.num_prefix
        self.bias = tokens.attention_mask()
        self.policy = None if tokens.policy is None else tokens.weights()
        shape = (*x.shape[:2], 3, attention.num_heads, attention.head_dim)
        queries, keys, values = attention.qkv(x).view(shape).permute(2, 0, 3, 1, 4).unbind(0)
        self.queries: Tensor = attention.q_norm(queries)
        """[B, H, P + N, D]."""
        self.keys: Tensor = attention.k_norm(keys)
        """[B, H, P + N, D]."""
        self.values: Tensor = values
        """[B, H, P + N, D]."""

    def probabilities(self, rows: slice, heads: slice) -> Tensor:
        """Softmax attention of the query `rows`, [B, heads, rows, P + N], at least float32.

        Out of autocast: scores rounded to bfloat16 tie, and ties decide which tokens stay.
        """
        with without_autocast(self.queries):
            queries = at_least_float32(self.queries[:, heads, rows]) * self.attention.scale
            return self._softmax(queries @ at_least_float32(self.keys[:, heads]).mT)

    @property
    def cls_heads(self) -> Tensor:
        """[B, H, N] attention of the CLS token on each patch token, for each head."""
        if self._rounded:
            probabilities = self._softmax(self._exact_cls_logits())
        else:
            probabilities = self.probabilities(slice(1), slice(None))
        return probabilities[:, :, 0, self.num_prefix :]

    @property
    def cls(self) -> Tensor:
        """[B, N] attention of the CLS token on each patch token, mean over heads."""
        return self.cls_heads.mean(dim=1)

    @property
    def received(self) -> Tensor:
        """[B, N] attention each patch token gets, summed over heads and queries; no gradient."""
        total = self.queries.new_zeros(())
        with torch.no_grad():
            for head in range(self.attention.num_heads):  # one map at a time, for they are large
                head_map = self.probabilities(slice(None), slice(head, head + 1))
                total = total + head_map.sum(dim=(1, 2))
        return total[:, self.num_prefix :]

    @property
    def mean_keys(self) -> Tensor:
        """[B, P + N, D] keys, mean over heads, at least float32."""
        if not self._rounded:
            return at_least_float32(self.keys).mean(dim=1)
        weight, bias = self._projection(1)
        with without_autocast(self.x):
            return F.linear(self.x, weight.mean(dim=0), None if bias is None else bias.mean(dim=0))

    def output(self, rows: Tensor | None) -> Tensor:
        """The attention module's output [B, K, C] for the query `rows` [B, K] (None: all)."""
        attention = self.attention
        queries, x = self.queries, self.x
        if rows is not None:
            queries = gather_tokens(queries.transpose(1, 2), rows).transpose(1, 2)
            x = gather_tokens(x, rows)
        x_heads = self._attend(queries)
        merged = attention.norm(x_heads.transpose(1, 2).flatten(2))
        if attention.gate is not None:
            merged = merged * attention.gate(x).sigmoid()
        return attention.proj_drop(attention.proj(merged))

    @property
    def _rounded(self) -> bool:
        """Whether autocast has rounded queries and keys, where the projections are known."""
        attention = self.attention
        norms = isinstance(attention.q_norm, nn.Identity) and isinstance(
            attention.k_norm, nn.Identity
        )
        return self.keys.dtype != self.x.dtype and norms and type(attention.qkv) is nn.Linear

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

    def _softmax(self, logits: Tensor) -> Tensor:
        return (logits if self.bias is None else logits + self.bias).softmax(dim=-1)

    def _attend(self, queries: Tensor) -> Tensor:
        attention = self.attention
        dropout = attention.attn_drop.p if attention.training else 0.0
        if self.policy is not None:
            return self._attend_by_policy(queries, self.policy, dropout)
        bias = None if self.bias is None else self.bias.to(queries.dtype)
        if attention.fused_attn:
            return F.scaled_dot_product_attention(
                queries, self.keys, self.values, attn_mask=bias, dropout_p=dropout
            )
        logits = (queries * attention.scale) @ self.keys.mT
        weights = (logits if bias is None else logits + bias).softmax(dim=-1)
        return attention.attn_drop(weights) @ self.values

    def _attend_by_policy(self, queries: Tensor, policy: Tensor, dropout: float) -> Tensor:
        attention = self.attention
        if attention.fused_attn and not dropout:
            return policy_attention(queries, self.keys, self.values, policy, attention.scale)
        probabilities = policy_softmax(queries @ self.keys.mT * attention.scale, policy)
        return attention.attn_drop(probabilities).to(queries.dtype) @ self.values


POLICY_EPS = 1e-6
"""Of DynamicViT's equation 11: it keeps a row's sum from vanishing."""


def policy_softmax(scores: Tensor, policy: Tensor) -> Tensor:
    """Return attention in which tokens see themselves and what the policy keeps, differentiably.

    Rao et al., DynamicViT, NeurIPS 2021, equation 11, with eps = 1e-6 and at least float32.

    Args:
        scores: [B, H, T, T] scaled logits.
        policy: [B, T], 1 for tokens that are kept and 0 for others.
    """
    scores = at_least_float32(scores)
    itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
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
