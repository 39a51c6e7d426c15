"""What a reduced model did to its tokens, recorded on request."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(kw_only=True)
class ReductionTrace:
    """The decisions of one forward pass, by block; integer tensors on the images' device.

    B images, N0 original patches, N_in patch tokens entering a stage, K leaving it, C channels.
    """

    stages: tuple[int, ...]
    """The blocks that reduce."""
    tokens: dict[int, Tensor] = field(default_factory=dict)
    """Block -> [B] live patch tokens after the stage."""
    kept: dict[int, Tensor] = field(default_factory=dict)
    """Block -> [B, K] original patch index of each token left, in sequence order; -1 for a token
    that is no single patch (fused) or is padding. Pruning methods, and merging ones whose groups
    have a patch as their centre."""
    assignment: dict[int, Tensor] = field(default_factory=dict)
    """Block -> [B, N_in] output token that each incoming patch token goes to; merging methods."""
    groups: dict[int, Tensor] = field(default_factory=dict)
    """Block -> [B, N0] output token that each original patch has gone to; merging methods."""
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


class Recorder:
    """Fills a `ReductionTrace` during a forward pass, composing stages to the original patches."""

    def __init__(self, trace: ReductionTrace, patches: Tensor, *, weights: bool) -> None:
        """Start with the unreduced `patches` [B, N0, C]; `weights` keeps soft weights too."""
        self.trace = trace
        self.wants_weights = weights
        identity = torch.arange(patches.shape[1], device=patches.device)
        self._origin = self._groups = identity.expand(patches.shape[0], -1)

    def keep(self, block: int, index: Tensor) -> None:
        """Note that `index` [B, K] of the incoming tokens are left; -1 for fused and padding."""
        origin = self._origin.gather(1, index.clamp(min=0))
        self._origin = self.trace.kept[block] = origin.masked_fill(index < 0, -1)

    def merge(self, block: int, assignment: Tensor) -> None:
        """Note that incoming token j goes to output `assignment[:, j]`, [B, N_in]."""
        self.trace.assignment[block] = assignment
        self._groups = self.trace.groups[block] = assignment.gather(1, self._groups)

    def merge_softly(self, block: int, weights: Tensor) -> None:
        """Note the `weights` [B, K, N_in]; a token belongs where it contributes most."""
        self.merge(block, weights.argmax(dim=1))
        if self.wants_weights:
            self.trace.weights[block] = weights.detach()

    def finish(self, block: int, patterns: tuple[str, ...], live: Tensor, count: int) -> None:
        """Close a stage with its `live` [B] of `count` tokens; one that left all gets identity."""
        self.trace.tokens[block] = live
        if "kept" in patterns and block not in self.trace.kept:
            self.trace.kept[block] = self._origin
        if "groups" in patterns and block not in self.trace.groups:
            identity = torch.arange(count, device=live.device)
            self.merge(block, identity.expand(live.shape[0], -1))
