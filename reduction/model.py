"""The forward pass of a reduced model: the host's own, with the stages in their places."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from timm.models import checkpoint
from torch import Tensor, nn

from reduction.block import Step
from reduction.dense import FeatureMaps
from reduction.host_input import patch_embedding, patch_grid
from reduction.plan import apply
from reduction.pooling import (
    attention_pool,
    max_pool,
    mean_pool,
    remember_weights,
    weights_of,
)
from reduction.schedule import Amount, KeepRate, MethodOptions, Removals
from reduction.stage import Stage, has_cls
from reduction.tokens import Tokens
from reduction.trace import Recorder, ReductionTrace

if TYPE_CHECKING:
    from timm.models import VisionTransformer as TimmViT
else:
    TimmViT = nn.Module  # the class of a reduced model has its host's as a base as well


class ReducedVisionTransformer(FeatureMaps, TimmViT):
    """A timm ViT that runs its blocks with reduction stages.

    Made by `reduction.reduce`, as a subclass of the host's own class as well. What differs between
    kinds of hosts is in the subclasses of `reduction.hosts`.
    """

    host_class: type
    """The class of the host."""
    stages: nn.ModuleList
    """One `Stage` for every block that reduces, in order."""
    method: str
    """Name of the method."""
    options: MethodOptions
    """Options of the method as asked for, without those at their defaults."""
    amount: Amount
    """How much to reduce, as asked for."""
    reduction_loc: tuple[int, ...]
    """The 0-based blocks that reduce, without those that the method adds."""
    chose_blocks: bool
    """Whether `reduction_loc` was asked for, not left to the default."""
    _weights: Tensor | None = None

    @property
    def keep_rate(self) -> KeepRate | None:
        """As asked for; None where `tokens` or `r` was."""
        return self.amount.keep_rate

    @property
    def r(self) -> Removals | None:
        """Tokens that every block removes, as asked for; None where something else was.

        Setting it is `reduction.set_schedule(model, r=...)`.
        """
        return self.amount.r

    @r.setter
    def r(self, r: Removals) -> None:
        from reduction.installing import set_schedule

        set_schedule(self, r=r)

    def forward(self, images: Tensor, *, image_index: Tensor | None = None) -> Tensor:
        """Return the logits of images, as the host does.

        Args:
            images: [B, channels, height, width].
            image_index: [B] integers, the index of each image in its data set, on which `random`
                bases its draw in evaluation; None counts through the batch.
        """
        return self._head(self._walk(images, image_index, None))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the tokens left after the last norm, [B, P + N, C]."""
        tokens = self._walk(images, None, None)
        features: Tensor = self.norm(tokens.x)
        if features is tokens.x:  # without a norm
            features = features.view_as(features)
        remember_weights(features, tokens.weights())
        return features

    def forward_with_trace(
        self,
        images: Tensor,
        *,
        image_index: Tensor | None = None,
        weights: bool = False,
        pooled: bool = False,
    ) -> tuple[Tensor, ReductionTrace]:
        """Return the logits and what happened to the tokens.

        Args:
            images: [B, channels, height, width].
            image_index: See `forward`.
            weights: Also record the weights of soft merging (large: [B, K, N_in] a stage).
            pooled: Also record the features that the head classifies.
        """
        trace = ReductionTrace(stages=tuple(stages_by_block(self)))
        tokens = self._walk(
            images, image_index, lambda patches: Recorder(trace, patches, weights=weights)
        )
        trace.grid = tokens.grid
        if tokens.policy is not None:
            trace.features = self.norm(tokens.x)[:, tokens.num_prefix :]
        if pooled:
            trace.pooled = self._head(tokens, pre_logits=True)
        return self._head(tokens), trace

    def _walk(
        self,
        images: Tensor,
        image_index: Tensor | None,
        record: Callable[[Tensor], Recorder] | None,
        depth: int | None = None,
        after: Callable[[int, Tokens], None] | None = None,
    ) -> Tokens:
        """Run embedding and blocks, all or the first `depth`.

        `record` makes the recorder from the first patch tokens; `after` is told what each block
        leaves.
        """
        stages = stages_by_block(self)
        tokens = self.embed(images)
        recorder = None if record is None else record(tokens.patches)
        tokens = self._begin(replace(tokens, image_index=image_index, recorder=recorder))
        for index, block in enumerate(self.blocks):
            if index == depth:
                break
            if tokens.rope is not None and tokens.coordinates is not None:
                tokens = replace(tokens, rope=tokens.rope.enter(index, tokens.coordinates))
            tokens = self._run_block(block, stages.get(index), tokens, stages.get(index + 1))
            if tokens.recorder is not None:
                self._note(tokens, tokens.recorder, index, stages.get(index))
            if after is not None:
                after(index, tokens)
        return tokens

    @abstractmethod
    def embed(self, images: Tensor) -> Tokens:
        """Return the tokens that come into the first block."""

    def block_arguments(self, tokens: Tokens) -> dict[str, Tensor | None]:
        """Return what a block of the host takes beside the features of `tokens`."""
        return {"attn_mask": tokens.attention_mask()}

    def tokens_of(self, x: Tensor, images: Tensor) -> Tokens:
        """Return embedded x [B, P + N0, C] of images [B, channels, height, width] as tokens."""
        return Tokens(
            x=x,
            num_prefix=self.num_prefix_tokens,
            # A tensor where torch.jit.trace looks on.
            num_patches=int(x.shape[1] - self.num_prefix_tokens),
            grid=patch_embedding(self).dynamic_feat_size(images.shape[-2:]),
        )

    def _begin(self, tokens: Tokens) -> Tokens:
        """Let the first stage look at the embedded tokens."""
        if not len(self.stages):  # pruned with their blocks
            return tokens
        first = cast("Stage", self.stages[0])
        if first.overrides("filter_attention"):
            tokens = replace(tokens, attention_filter=first.filter_attention)
        return apply(first.begin(tokens), tokens, first.spec.block)

    def _run_block(
        self, block: nn.Module, stage: Stage | None, tokens: Tokens, following: Stage | None
    ) -> Tokens:
        if stage is not None and not stage.acts(tokens):
            stage = None
        if stage is not None:
            tokens = apply(stage.before_block(tokens), tokens, stage.spec.block)
        watched = following is not None and following.looks_back and following.acts(tokens)
        opened = watched or (stage is not None and stage.opens_block())
        call: Callable[..., Tensor] = block
        if self.grad_checkpointing and torch.is_grad_enabled():
            call = partial(checkpoint, block)
        opened = opened or tokens.relative is not None
        if opened or tokens.policy is not None or tokens.attention_filter is not None:
            step = Step(tokens, stage, watched=watched)
            x = call(tokens.x, step=step)
            assert step.left is not None
            return replace(step.left, x=x)
        return replace(tokens, x=call(tokens.x, **self.block_arguments(tokens)), received=None)

    def _note(self, tokens: Tokens, recorder: Recorder, index: int, stage: Stage | None) -> None:
        if stage is not None:
            recorder.finish(index, stage.patterns, tokens.live(), tokens.count)
        if has_cls(self) and (stage is not None or index == len(self.blocks) - 1):
            recorder.trace.cls[index] = tokens.x[:, 0].detach()

    def _head(self, tokens: Tokens, *, pre_logits: bool = False) -> Tensor:
        """Apply the last norm and the host's own head, or only what comes before its last layer."""
        self._weights = tokens.weights()
        try:
            return self.forward_head(self.norm(tokens.x), pre_logits=pre_logits)
        finally:
            self._weights = None

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Pool features as the host does, but count tokens by their size, and padding not at all.

        Args:
            x: [B, P + N, C], as `forward_features` returned them: of a copy nothing is known, so
                that all tokens count the same.
            pool_type: In place of `global_pool`.
        """
        kind = self.global_pool if pool_type is None else pool_type
        weights = weights_of(x) if self._weights is None else self._weights
        if weights is None or kind in ("", "token"):
            return self.host_pool(x, pool_type)
        if not self.pools_prefix():
            x, weights = x[:, self.num_prefix_tokens :], weights[:, self.num_prefix_tokens :]
        if self.attn_pool is not None:
            return attention_pool(self.attn_pool, x, weights)
        if kind == "avg":
            return mean_pool(x, weights)
        if kind == "max":
            return max_pool(x, weights)
        return 0.5 * (max_pool(x, weights) + mean_pool(x, weights))

    def host_pool(self, x: Tensor, pool_type: str | None) -> Tensor:
        """Pool features x [B, P + N, C] as the host does."""
        return cast("Tensor", super().pool(x, pool_type))

    def pools_prefix(self) -> bool:
        """Return whether pooling takes the prefix tokens in."""
        return bool(self.pool_include_prefix)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that take no weight decay, the stages' included."""
        own = {
            f"stages.{index}.{name}"
            for index, stage in enumerate(self.stages)
            for name in cast("Stage", stage).no_weight_decay()
        }
        return cast("set[str]", super().no_weight_decay()) | own

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        """Change the size of images, in pixels, as the host does; stages take it over."""
        super().set_input_size(img_size=img_size, patch_size=patch_size)
        grid = patch_grid(self)
        for stage in stages_by_block(self).values():
            stage.respecify(replace(stage.spec, grid=grid))


def stages_by_block(model: TimmViT) -> dict[int, Stage]:
    """Return the stages of a model by the block they sit at; a plain host has none."""
    stages = cast("Iterable[Stage]", getattr(model, "stages", ()))
    return {stage.spec.block: stage for stage in stages}
