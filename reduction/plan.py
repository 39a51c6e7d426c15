"""What a stage decides, as an object: one place applies it to all that travels with the tokens.

A plan speaks of the N patch tokens that come in; prefix tokens always stay as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reduction.tokens import (
    Tokens,
    at_least_float32,
    gather_tokens,
    sum_by_group,
    weigh_keys,
)
from reduction.trace import Learning, Moves, Recorder


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Leaves the tokens as they are; the base of all plans."""

    carried: Mapping[str, Tensor] | None = None
    """New value of `Tokens.carried`; None leaves it as it is."""
    learning: Learning | None = None
    """What the method's loss needs, for `ReductionTrace.learning`."""

    def transform(self, tokens: Tokens) -> Tokens:
        """Return what is left of `tokens`."""
        return tokens

    def moves(self, tokens: Tokens) -> Moves | None:
        """Return where the tokens go, for the trace; None where they stay."""
        return None

    def record(self, block: int, tokens: Tokens, recorder: Recorder) -> None:
        """Note what this does to `tokens` at `block`."""
        moves = self.moves(tokens)
        if moves is not None:
            recorder.note(block, moves, tokens.patches)
        if self.learning is not None:
            recorder.trace.learning[block] = self.learning


NOTHING = Plan()
"""The plan to leave everything as it is."""


def apply(plan: Plan, tokens: Tokens, block: int) -> Tokens:
    """Carry out the plan of a stage at `block` and record it."""
    if tokens.recorder is not None:
        plan.record(block, tokens, tokens.recorder)
    left = plan.transform(tokens)
    return left if plan.carried is None else replace(left, carried=plan.carried)


@dataclass(frozen=True, kw_only=True)
class Keep(Plan):
    """Keeps tokens in a given order and drops the others."""

    index: Tensor
    """[B, K] positions of those kept."""
    mask: Tensor | None = None
    """[B, K] bool, False where `index` is padding, for images that keep fewer; None: all real."""
    fused: Tensor | None = None
    """[B, E, N] weights of E extra tokens, each a sum of the incoming ones, appended last."""
    features: Tensor | None = None
    """[B, K, C] what the kept tokens become; None: they stay as they are."""
    sizes: Tensor | None = None
    """[B, K] their sizes from now on; None: as they were."""
    proportional: bool = False
    """Whether keys are weighed by `sizes` from now on."""
    policy: Tensor | None = None
    """[B, K] float, what later attention sees of them, with its gradient; None: everything."""

    def transform(self, tokens: Tokens) -> Tokens:
        """Gather what is kept."""
        patches = self.features
        if patches is None:
            patches = gather_tokens(tokens.patches, self.index)
        left = replace(
            tokens.with_patches(self._with_fused(patches, tokens)),
            sizes=self._sizes(tokens),
            mask=self._mask(tokens),
            coordinates=self._coordinates(tokens),
            proportional=self.proportional or tokens.proportional,
            policy=self.policy,
        )
        changed = tokens.key_bias is not None or self.mask is not None or self.proportional
        return weigh_keys(left) if changed else left

    @property
    def only_selects(self) -> bool:
        """Whether every token left is an incoming one, unchanged."""
        return self.features is None and self.fused is None

    def _with_fused(self, patches: Tensor, tokens: Tokens) -> Tensor:
        if self.fused is None:
            return patches
        weights = self.fused.to(tokens.x.dtype)[..., None]
        # A sum, not a product of matrices: there is one fused token as a rule.
        return torch.cat((patches, (weights * tokens.patches[:, None]).sum(dim=2)), dim=1)

    def _sizes(self, tokens: Tokens) -> Tensor | None:
        sizes = self.sizes
        if sizes is None and tokens.sizes is not None:
            sizes = gather_tokens(tokens.sizes, self.index)
        if sizes is None or self.fused is None:
            return sizes
        before = torch.ones_like(self.fused[:, 0]) if tokens.sizes is None else tokens.sizes
        fused = ((self.fused != 0) * before[:, None]).sum(dim=2)
        return torch.cat((sizes, fused.to(sizes.dtype)), dim=1)

    def _mask(self, tokens: Tokens) -> Tensor | None:
        mask = self.mask
        if mask is None and tokens.mask is not None:
            mask = gather_tokens(tokens.mask, self.index)
        if mask is None or self.fused is None:
            return mask
        return torch.cat((mask, mask.new_ones(self.fused.shape[:2])), dim=1)

    def _coordinates(self, tokens: Tokens) -> Tensor | None:
        if tokens.coordinates is None:
            return None
        coordinates = gather_tokens(tokens.coordinates, self.index)
        if self.fused is None:
            return coordinates
        return torch.cat((coordinates, _mean_place(self.fused, tokens.coordinates)), dim=1)

    def moves(self, tokens: Tokens) -> Moves:
        """Return the kept tokens; the others are dropped."""
        index, batch = self.index, self.index.shape[0]
        place = torch.arange(index.shape[1], device=index.device).expand_as(index)
        if self.mask is not None:
            index, place = (x.masked_fill(~self.mask, -1) for x in (index, place))
        # Padding may name a token twice, and the later of two scattered values is undefined.
        gone = index.new_full((batch, tokens.count), -1)
        assignment = gone.scatter_reduce(1, self.index, place, "amax")
        if self.fused is not None:
            index = torch.cat((index, index.new_full(self.fused.shape[:2], -1)), dim=1)
        return Moves(origin=index, assignment=assignment)


@dataclass(frozen=True, kw_only=True)
class Merge(Plan):
    """Sends every token to an output, or nowhere; pruning and merging mix."""

    assignment: Tensor
    """[B, N] output of each token, in 0..count - 1, or -1 where it is dropped. Every output has
    a token."""
    count: int
    """K, the number of outputs."""
    drops: bool = False
    """Whether `assignment` has any -1."""
    shares: Tensor | None = None
    """[B, N] how much of each token goes into its output's sum; None: the mean by size."""
    features: Tensor | None = None
    """[B, K, C] the outputs; None: the sums."""
    centres: Tensor | None = None
    """[B, K] the token that stands for each output, in the trace, and for its place where
    `features` are given."""
    sized: bool = True
    """Whether sizes are counted from now on."""
    sizes: Tensor | None = None
    """[B, K] sizes of the outputs; None: the sums of the members' sizes."""
    proportional: bool = False
    """Whether keys are weighed by size from now on."""
    reuses_attention: bool = False
    """Whether the block attends by the map of the incoming tokens, columns added up and rows
    averaged by `shares` in each group; from the hook `before_attention` only."""

    def transform(self, tokens: Tokens) -> Tokens:
        """Sum up the groups; sizes add up, coordinates are averaged by size."""
        patches = at_least_float32(tokens.patches)
        before = patches.new_ones(patches.shape[:2]) if tokens.sizes is None else tokens.sizes
        needs_total = (self.shares is None and self.features is None) or self.sized
        total = None
        if needs_total or tokens.coordinates is not None:
            total = self._sum(before[..., None])
        left = replace(
            tokens.with_patches(self._features(patches, tokens.sizes, total)),
            sizes=self._sizes(total),
            mask=self._mask(tokens),
            coordinates=self._coordinates(tokens, before, total),
            proportional=self.sized and (self.proportional or tokens.proportional),
        )
        changed = tokens.key_bias is not None or self.proportional
        return weigh_keys(left) if changed else left

    def _features(self, patches: Tensor, sizes: Tensor | None, total: Tensor | None) -> Tensor:
        if self.features is not None:
            return self.features
        if self.shares is not None:
            return self._sum(patches * self.shares[..., None])
        assert total is not None
        # Without sizes all are 1, and multiplying by them would move every token once more.
        return self._sum(patches if sizes is None else patches * sizes[..., None]) / total

    def _sizes(self, total: Tensor | None) -> Tensor | None:
        if not self.sized:
            return None
        assert total is not None
        return total[..., 0] if self.sizes is None else self.sizes

    def _mask(self, tokens: Tokens) -> Tensor | None:
        if tokens.mask is None:
            return None
        return self._sum(tokens.mask[..., None].to(tokens.x.dtype))[..., 0] > 0

    def _coordinates(self, tokens: Tokens, before: Tensor, total: Tensor | None) -> Tensor | None:
        if tokens.coordinates is None:
            return None
        if self.centres is not None and self.features is not None:
            return gather_tokens(tokens.coordinates, self.centres)
        assert total is not None
        return self._sum(tokens.coordinates * before[..., None]) / total

    def _sum(self, x: Tensor) -> Tensor:
        """Sum x [B, N, C] by output, [B, K, C]."""
        if not self.drops:
            return sum_by_group(x, self.assignment, self.count)
        spare = self.assignment.where(self.assignment >= 0, self.count)
        return sum_by_group(x, spare, self.count + 1)[:, : self.count]

    def moves(self, tokens: Tokens) -> Moves:
        """Return the assignment."""
        origin = self.centres
        if origin is None:
            origin = self.assignment.new_full((self.assignment.shape[0], self.count), -1)
        return Moves(origin=origin, assignment=self.assignment)


@dataclass(frozen=True, kw_only=True)
class Mix(Plan):
    """Replaces the tokens by weighted sums of all of them."""

    weights: Tensor
    """[B, K, N]."""
    source: Tensor | None = None
    """[B, N, C] what is summed; None: the tokens."""

    def transform(self, tokens: Tokens) -> Tokens:
        """Sum up; a sum stands at the mean place of what it is made of, and has no size."""
        source = tokens.patches if self.source is None else self.source
        coordinates = tokens.coordinates
        if coordinates is not None:
            coordinates = _mean_place(self.weights, coordinates)
        return replace(
            tokens.with_patches(self.weights.to(source.dtype) @ source),
            sizes=None,
            mask=None,
            key_bias=None,
            proportional=False,
            coordinates=coordinates,
        )

    def moves(self, tokens: Tokens) -> Moves:
        """Return, for every token, the output it gives most to."""
        assignment = self.weights.argmax(dim=1)
        origin = assignment.new_full(self.weights.shape[:2], -1)
        return Moves(origin=origin, assignment=assignment, weights=self.weights)


@dataclass(frozen=True, kw_only=True)
class Mask(Plan):
    """Drops nothing, but has later attention see less of some tokens, in training."""

    policy: Tensor
    """[B, N] float, 1 for tokens kept so far and 0 for others, with its gradient."""
    decides: bool = True
    """Whether it is a decision on single tokens, which the trace notes."""

    def transform(self, tokens: Tokens) -> Tokens:
        """Set the policy."""
        return replace(tokens, policy=self.policy)

    def record(self, block: int, tokens: Tokens, recorder: Recorder) -> None:
        """Note the policy, with its gradient."""
        if self.decides:
            recorder.trace.decisions[block] = self.policy
        super().record(block, tokens, recorder)


@dataclass(frozen=True, kw_only=True)
class Rest(Plan):
    """Runs the block on some tokens; the others rest, and stand where they were after it.

    From the hooks `before_block` and `before_attention` only.
    """

    index: Tensor
    """[B, K] positions of those that take part."""

    def transform(self, tokens: Tokens) -> Tokens:
        """Return those that take part."""
        return Keep(index=self.index).transform(tokens)

    def moves(self, tokens: Tokens) -> Moves:
        """Return those that take part; the others are not gone."""
        return Moves(origin=self.index)

    def put_back(self, everything: Tokens, active: Tokens) -> Tokens:
        """Return `everything` with the tokens that took part as they are in `active`."""
        rows = self.index[..., None].expand(-1, -1, everything.x.shape[-1])
        patches = everything.patches.scatter(1, rows, active.patches)
        x = torch.cat((active.prefix, patches.to(active.x.dtype)), dim=1)
        return replace(everything, x=x, received=active.received)


@dataclass(frozen=True, kw_only=True)
class Append(Plan):
    """Brings tokens back that were dropped before, at the end of the sequence."""

    features: Tensor
    """[B, E, C]."""
    origin: Tensor
    """[B, E] original patch of each."""
    coordinates: Tensor | None = None
    """[B, E, 2] places of theirs, where the host has coordinates."""

    def transform(self, tokens: Tokens) -> Tokens:
        """Append them, with size 1."""
        ones = self.features.new_ones(self.features.shape[:2])
        sizes, mask, places = tokens.sizes, tokens.mask, tokens.coordinates
        if places is not None and self.coordinates is not None:
            places = torch.cat((places, self.coordinates), dim=1)
        left = replace(
            tokens.with_patches(torch.cat((tokens.patches, self.features), dim=1)),
            sizes=None if sizes is None else torch.cat((sizes, ones.to(sizes.dtype)), dim=1),
            mask=None if mask is None else torch.cat((mask, ones.bool()), dim=1),
            coordinates=places,
        )
        return left if tokens.key_bias is None else weigh_keys(left)

    def moves(self, tokens: Tokens) -> Moves:
        """Return that all stay and some come back."""
        place = torch.arange(tokens.count, device=self.origin.device)
        place = place.expand(self.origin.shape[0], -1)
        return Moves(origin=place, assignment=place, appended=self.origin)


def _mean_place(weights: Tensor, coordinates: Tensor) -> Tensor:
    """Return the means [B, K, 2] of coordinates [B, N, 2] by weights [B, K, N]."""
    weights = weights.to(coordinates.dtype)
    total = (weights[..., None] * coordinates[:, None]).sum(dim=2)
    return total / weights.sum(dim=2, keepdim=True)


def shares_in_group(weights: Tensor, assignment: Tensor, num_groups: int) -> Tensor:
    """Return the weights [B, N] over the sum of those in the same group, for `Merge.shares`."""
    total = sum_by_group(weights[..., None], assignment, num_groups)[..., 0]
    return weights / total.gather(1, assignment)
