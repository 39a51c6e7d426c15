"""Features of reduced models on the grid of the original patches."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from reduction.tokens import Tokens, gather_tokens
from reduction.trace import Moves, Recorder, ReductionTrace

Dropped = Literal["last", "zero"]
"""What stands at a dropped patch: the value it had when it was dropped, or 0."""


def unmerge(x: Tensor, trace: ReductionTrace, block: int | None = None) -> Tensor:
    """Return tokens on the grid of original patches: a merged one at all patches of its group.

    Args:
        x: [B, K, C] patch tokens that are left, prefix tokens aside.
        trace: Of the same forward pass.
        block: The stage after which they are left; None for the last one.

    Returns:
        [B, N0, C], 0 where a patch was dropped.

    Raises:
        ValueError: There is no stage at `block`, or `x` has not the tokens that it left.
    """
    block = trace.stages[-1] if block is None else block
    _check("block", block, trace.stages)
    if block in trace.groups:
        groups = trace.groups[block]
        return _at(x, groups).masked_fill(groups[..., None] < 0, 0.0)
    if block not in trace.kept:
        return x  # of the unreduced model
    kept = trace.kept[block]
    if kept.shape[1] != x.shape[1]:
        raise ValueError(f"x has {x.shape[1]} tokens, but must have the {kept.shape[1]} left")
    everywhere = x.new_zeros(len(x), trace.num_patches + 1, x.shape[2])
    rows = kept.where(kept >= 0, trace.num_patches)[..., None].expand_as(x)
    return everywhere.scatter(1, rows, x)[:, :-1]


class MapRecorder(Recorder):
    """Knows at every point of a forward pass what stands at each original patch."""

    def __init__(self, trace: ReductionTrace, patches: Tensor, *, dropped: Dropped) -> None:
        """Start with the unreduced `patches` [B, N0, C]."""
        super().__init__(trace, patches, weights=False)
        self._keeps = dropped == "last"
        self._values = torch.zeros_like(patches)

    def note(self, block: int, moves: Moves, patches: Tensor) -> None:
        """Note what a plan does at `block`, and the values of what it drops."""
        if self._keeps and moves.assignment is not None:
            self._values = self.spread(patches)
        super().note(block, moves, patches)

    def spread(self, patches: Tensor) -> Tensor:
        """Return [B, N0, C]: what is at each original patch, of the tokens left [B, N, C]."""
        return torch.where(self.groups[..., None] < 0, self._values, _at(patches, self.groups))

    def whole(self, tokens: Tokens) -> Tensor:
        """Return the prefix tokens and what is at each original patch, [B, P + N0, C]."""
        return torch.cat((tokens.prefix, self.spread(tokens.patches)), dim=1)


class FeatureMaps:
    """What timm's models offer for dense features, for reduced models."""

    def forward_intermediates(
        self: Any,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        *,
        dropped: Dropped = "last",
    ) -> Any:
        """Return features after blocks on the grid of patches, as the host does.

        A merged token stands at all patches of its group.

        Args:
            images: [B, channels, height, width].
            indices: Blocks; a number for so many last ones, None for all.
            return_prefix_tokens: Give (map, prefix tokens [B, P, C]) for each block.
            norm: Apply the last norm to all of them.
            stop_early: Run no block after the last of them.
            output_fmt: `NCHW` for maps [B, C, rows, columns], `NLC` for [B, N0, C].
            intermediates_only: Leave out the final features.
            output_dict: Give a dictionary with timm's keys instead.
            dropped: What stands at a dropped patch: the value that it had when it was dropped
                (`last`), or 0 (`zero`).

        Returns:
            The final features [B, P + N, C] of the tokens left, and a list of maps.

        Raises:
            ValueError: An argument is not allowed, or patches are missing from the grid.
        """
        _check("output_fmt", output_fmt, ("NCHW", "NLC"))
        _check("dropped", dropped, get_args(Dropped))
        taken, last = feature_take_indices(len(self.blocks), indices)
        whole: list[Tensor] = []
        trace = ReductionTrace(stages=())

        def after(index: int, tokens: Tokens) -> None:
            if index in taken:
                assert isinstance(tokens.recorder, MapRecorder)
                whole.append(tokens.recorder.whole(tokens))

        tokens = self._walk(
            images,
            None,
            lambda patches: MapRecorder(trace, patches, dropped=dropped),
            depth=last + 1 if stop_early else None,
            after=after,
        )
        rows, columns = tokens.grid
        if rows * columns != tokens.num_patches:
            raise ValueError("host has patch dropout, but must keep all patches for feature maps")
        features = [self.norm(x) if norm else x for x in whole]
        prefix = [x[:, : tokens.num_prefix] for x in features]
        maps = [x[:, tokens.num_prefix :] for x in features]
        if output_fmt == "NCHW":
            maps = [x.mT.unflatten(2, tokens.grid).contiguous() for x in maps]
        final = None if intermediates_only else self.norm(tokens.x)
        return _as_timm(final, maps, prefix if return_prefix_tokens else None, output_dict)

    def prune_intermediate_layers(
        self: Any,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the blocks after the last of `indices`, and their stages, as the host does."""
        taken: list[int] = super().prune_intermediate_layers(indices, prune_norm, prune_head)  # type: ignore[misc]
        depth = len(self.blocks)
        self.stages = nn.ModuleList(s for s in self.stages if s.spec.block < depth)
        self.reduction_loc = tuple(block for block in self.reduction_loc if block < depth)
        return taken


def _as_timm(
    final: Tensor | None, maps: list[Tensor], prefix: list[Tensor] | None, output_dict: bool
) -> Any:
    if output_dict:
        named: dict[str, Any] = {"image_intermediates": maps}
        if prefix is not None:
            named["image_intermediates_prefix"] = prefix
        return named if final is None else named | {"image_features": final}
    listed = maps if prefix is None else list(zip(maps, prefix, strict=True))
    return listed if final is None else (final, listed)


def _check(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(map(str, allowed))}")


def _at(patches: Tensor, groups: Tensor) -> Tensor:
    return gather_tokens(patches, groups.clamp(min=0))
