"""The forward pass of a reduced model: timm's own, with the stages in their places."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from typing import Any, cast

import torch
from timm.models import checkpoint
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from reduction.attention import AttentionView
from reduction.schedule import KeepRate
from reduction.stage import Stage
from reduction.tokens import Tokens
from reduction.trace import Recorder, ReductionTrace


class ReducedVisionTransformer(VisionTransformer):
    """A timm `VisionTransformer` that runs its blocks with reduction stages.

    Made by `reduction.reduce`, as a subclass of the host's own class as well.
    """

    host_class: type
    """The class of the host."""
    stages: nn.ModuleList
    """One `Stage` for every block that reduces, in order."""
    method: str
    """Name of the method."""
    keep_rate: KeepRate
    """As asked for."""
    reduction_loc: tuple[int, ...]
    """As asked for: the 0-based blocks that reduce."""

    def forward(self, images: Tensor, *, image_index: Tensor | None = None) -> Tensor:
        """Return the logits of images, as the host does.

        Args:
            images: [B, channels, height, width].
            image_index: [B] integers, the index of each image in its data set, on which `random`
                bases its draw in evaluation; None counts through the batch.
        """
        return self._classify(self._walk(images, image_index, None))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the tokens left after the last norm, [B, P + N, C]."""
        return self.norm(self._walk(images, None, None).x)

    def forward_with_trace(
        self, images: Tensor, *, image_index: Tensor | None = None, weights: bool = False
    ) -> tuple[Tensor, ReductionTrace]:
        """Return the logits and what happened to the tokens.

        Args:
            images: [B, channels, height, width].
            image_index: See `forward`.
            weights: Also record the weights of soft merging (large: [B, K, N_in] a stage).
        """
        trace = ReductionTrace(stages=tuple(stages_by_block(self)))
        tokens = self._walk(
            images, image_index, lambda patches: Recorder(trace, patches, weights=weights)
        )
        if tokens.policy is not None:
            trace.features = self.norm(tokens.x)[:, tokens.num_prefix :]
        return self._classify(tokens), trace

    def forward_intermediates(self, *args: Any, **kwargs: Any) -> Any:
        """Not offered: reduced tokens form no grid."""
        raise NotImplementedError(
            "a reduced model has no feature maps; use forward_with_trace, or reduction.unreduce it"
        )

    def _walk(
        self,
        images: Tensor,
        image_index: Tensor | None,
        record: Callable[[Tensor], Recorder] | None,
    ) -> Tokens:
        """Run embedding and blocks; `record` makes the recorder from the first patch tokens."""
        stages = stages_by_block(self)
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(images))))
        patches = x[:, self.num_prefix_tokens :]
        tokens = Tokens(
            x=x,
            num_prefix=self.num_prefix_tokens,
            num_patches=patches.shape[1],
            grid=self.patch_embed.dynamic_feat_size(images.shape[-2:]),
            image_index=image_index,
            recorder=None if record is None else record(patches),
        )
        for index, block in enumerate(self.blocks):
            tokens = self._run_block(block, stages.get(index), tokens, stages.get(index + 1))
            if tokens.recorder is not None:
                self._note(tokens, tokens.recorder, index, stages.get(index))
        return tokens

    def _run_block(
        self, block: Block, stage: Stage | None, tokens: Tokens, following: Stage | None
    ) -> Tokens:
        if stage is not None:
            tokens = stage.before_block(tokens)
        opened = stage is not None and stage.opens_block()
        watched = following is not None and following.looks_back and following.acts(tokens)
        again = self.grad_checkpointing and torch.is_grad_enabled()
        if opened or watched:
            return open_block(block, stage, tokens, watched=watched)
        if tokens.policy is not None:
            run = partial(checkpoint, open_block) if again else open_block
            return run(block, None, tokens, watched=False)
        mask = tokens.attention_mask()
        x = checkpoint(block, tokens.x, mask) if again else block(tokens.x, attn_mask=mask)
        return replace(tokens, x=x, received=None)

    def _note(self, tokens: Tokens, recorder: Recorder, index: int, stage: Stage | None) -> None:
        if stage is not None:
            recorder.finish(index, stage.patterns, tokens.live(), tokens.count)
        if self.has_class_token and (stage is not None or index == len(self.blocks) - 1):
            recorder.trace.cls[index] = tokens.x[:, 0].detach()

    def _classify(self, tokens: Tokens) -> Tensor:
        """Apply the last norm and the host's own head, averaging by token size where known."""
        x = self.norm(tokens.x)
        weights = tokens.weights()
        if weights is not None and self.global_pool == "avg":
            first = 0 if self.pool_include_prefix else self.num_prefix_tokens
            pooled = weights[:, first:]
            # In training, no token at all may count: less than half of one is none.
            average = pooled.mean(dim=1, keepdim=True).clamp(min=0.5 / pooled.shape[1])
            relative = pooled / average
            x = torch.cat((x[:, :first], x[:, first:] * relative[..., None].to(x.dtype)), dim=1)
        return self.forward_head(x)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class is made at run time, so that a pickle has to name the host's instead.
        return _blank, (self.host_class,), self.__dict__


def open_block(block: Block, stage: Stage | None, tokens: Tokens, *, watched: bool) -> Tokens:
    """Run timm's `Block` with a stage that acts inside it, or for one that looks back at it."""
    attention = AttentionView(block.attn, block.norm1(tokens.x), tokens)
    rows = None
    if stage is not None:
        tokens, rows = stage.select_queries(tokens, attention)
    x = tokens.x + block.drop_path1(block.ls1(attention.output(rows)))
    tokens = replace(tokens, x=x, received=attention.received if watched else None)
    if stage is not None:
        tokens = stage.after_attention(tokens, attention)
    x = tokens.x
    del attention  # makes room for the MLP
    return replace(tokens, x=x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))


def stages_by_block(model: VisionTransformer) -> dict[int, Stage]:
    """Return the stages of a model by the block they sit at; a plain host has none."""
    stages = cast("Iterable[Stage]", getattr(model, "stages", ()))
    return {stage.spec.block: stage for stage in stages}


@cache
def reduced_class(host_class: type) -> type[ReducedVisionTransformer]:
    """Return the one class of reduced models of `host_class`."""
    name = f"Reduced{host_class.__name__}"
    return type(name, (ReducedVisionTransformer, host_class), {"host_class": host_class})


def _blank(host_class: type) -> ReducedVisionTransformer:
    cls = reduced_class(host_class)
    return cls.__new__(cls)
