"""What a reduced model did to its tokens, recorded on request."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What a stage hands to the loss of its method, in training only."""

    auxiliary_logits: Tensor | None = None
    """[B, classes] of a head that the stage learns by and drops after training; `cropr`."""
    count: Tensor | None = None
    """Scalar, prefix and patch tokens that the stage's learned numbers leave, with their gradient;
    `diffrate`."""
    cut_loss: Tensor | None = None
    """Scalar, how much attention crosses between tokens that take part and others; `idlevit`."""


@dataclass(kw_only=True)
class ReductionTrace:
    """The decisions of one forward pass, by block; integer tensors on the images' device.

    B images, N0 original patches, N_in patch tokens entering a stage, K leaving it, C channels.
    """

    stages: tuple[int, ...]
    """The blocks that reduce."""
    num_patches: int = 0
    """N0."""
    grid: tuple[int, int] = (0, 0)
    """Rows and columns of the original patches."""
    tokens: dict[int, Tensor] = field(default_factory=dict)
    """Block -> [B] live patch tokens after the stage."""
    kept: dict[int, Tensor] = field(default_factory=dict)
    """Block -> [B, K] original patch index of each token left, in sequence order; -1 for a token
    that is no single patch (fused) or is padding. Pruning methods, and merging ones whose groups
    have a patch as their centre."""
    assignment: dict[int, Tensor] = field(default_factory=dict)
    """Block -> [B, N_in] output token that each incoming patch token goes to, -1 where it is
    dropped; merging methods."""
    groups: dict[int, Tensor] = field(default_factory=dict)
    """Block -> [B, N0] output token that each original patch has gone to, -1 where it is gone;
    merging methods."""
    weights: dict[int, Tensor] = field(default_factory=dict)
    """Block -> [B, K, N_in] float weights of soft merging; only where asked for."""
    cls: dict[int, Tensor] = field(default_factory=dict)
    """Block -> [B, C] float CLS token after the block, for each stage and the last block; empty
    for hosts without one."""
    decisions: dict[int, Tensor] = field(default_factory=dict)
    """Block -> [B, N0] float, 1 for patches kept and 0 for those dropped so far, differentiable;
    methods that only mask tokens in training, and only there."""
    features: Tensor | None = None
    """[B, N0, C] patch tokens after the last norm, where there are `decisions`."""
    learning: dict[int, Learning] = field(default_factory=dict)
    """Block -> what else the method's loss needs; only in training."""
    pooled: Tensor | None = None
    """[B, C] features that the head classifies, after the last norm and the host's pooling, with
    their gradient; only where asked for."""


@dataclass(frozen=True, kw_only=True)
class Moves:
    """Where the N tokens that come into a stage go, of which K are left."""

    origin: Tensor
    """[B, K] incoming token that each output is; -1 for one that is no single token."""
    assignment: Tensor | None = None
    """[B, N] output that each incoming token goes to, -1 where it is dropped; None where the
    tokens that are not in `origin` come back after the block."""
    weights: Tensor | None = None
    """[B, K, N] weights of soft merging."""
    appended: Tensor | None = None
    """[B, E] original patches that come back, after the K outputs."""


class Recorder:
    """Fills a `ReductionTrace` during a forward pass, composing stages to the original patches."""

    def __init__(self, trace: ReductionTrace, patches: Tensor, *, weights: bool) -> None:
        """Start with the unreduced `patches` [B, N0, C]; `weights` keeps soft weights too."""
        self.trace = trace
        self.wants_weights = weights
        identity = torch.arange(patches.shape[1], device=patches.device)
        self._origin = identity.expand(patches.shape[0], -1)
        self.groups = self._origin
        """[B, N0] token that each original patch has gone to, -1 where it is gone."""
        trace.num_patches = patches.shape[1]
        self._assignment: Tensor | None = None
        self._active: Tensor | None = None

    def note(self, block: int, moves: Moves, patches: Tensor) -> None:
        """Note what a plan does at `block` to `patches` [B, N, C]; a stage may have several."""
        origin = _look_up(self._origin, moves.origin)
        if moves.assignment is None:
            self._active = origin
            return
        self._origin = origin
        self.groups = _look_up(moves.assignment, self.groups)
        before = self._assignment
        self._assignment = (
            moves.assignment if before is None else _look_up(moves.assignment, before)
        )
        if moves.appended is not None:
            self._append(moves.appended)
        if moves.weights is not None and self.wants_weights:
            self.trace.weights[block] = moves.weights.detach()

    def finish(self, block: int, patterns: tuple[str, ...], live: Tensor, count: int) -> None:
        """Close the stage at `block`, which left `live` [B] of `count` tokens."""
        active, assignment = self._active, self._assignment
        if active is not None:
            live = torch.full_like(live, active.shape[1])
        self.trace.tokens[block] = live
        if "kept" in patterns:
            self.trace.kept[block] = self._origin if active is None else active
        if "groups" in patterns:
            identity = torch.arange(count, device=live.device).expand(live.shape[0], -1)
            self.trace.assignment[block] = identity if assignment is None else assignment
            self.trace.groups[block] = self.groups
        self._assignment = self._active = None

    def _append(self, origin: Tensor) -> None:
        first = self._origin.shape[1]
        place = torch.arange(first, first + origin.shape[1], device=origin.device)
        self._origin = torch.cat((self._origin, origin), dim=1)
        self.groups = self.groups.scatter(1, origin, place.expand_as(origin))


def _look_up(values: Tensor, index: Tensor) -> Tensor:
    """Return values [B, N] at `index` [B, K], and -1 where that is -1."""
    return values.gather(1, index.clamp(min=0)).masked_fill(index < 0, -1)
