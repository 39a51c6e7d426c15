"""The base class of all methods: one stage of reduction at one block."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from timm.models.vision_transformer import Block
from torch import Tensor, nn

from reduction.attention import AttentionView
from reduction.schedule import KeepRate, keep_fractions, token_target
from reduction.tokens import Tokens

Count = Any
"""A number of tokens or of operations: int, float, or a tensor [B] with one an image."""


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """Where a stage sits, and what it is asked to keep."""

    index: int
    """Number of stages before it."""
    blocks: tuple[int, ...]
    """0-based block of every stage of the model, ascending."""
    fractions: tuple[float, ...]
    """For every stage, the fraction of the original patch tokens to keep, in (0, 1]."""
    grid: tuple[int, int]
    """Rows and columns of the host's grid of patches."""
    dim: int
    """C, channels of the host."""
    num_prefix: int
    """P, prefix tokens of the host."""
    has_cls: bool
    """Whether the host has a CLS token (it then is the first prefix token)."""

    @property
    def block(self) -> int:
        """0-based index of the stage's block."""
        return self.blocks[self.index]

    @property
    def num_patches(self) -> int:
        """N0 at the host's own image size."""
        return self.grid[0] * self.grid[1]

    def target(self, num_patches: int) -> int:
        """Return how many of `num_patches` original tokens this stage keeps."""
        return token_target(self.fractions[self.index], num_patches)

    def target_before(self, num_patches: int) -> int:
        """Return the same of the stage before, `num_patches` for the first stage."""
        if self.index == 0:
            return num_patches
        return token_target(self.fractions[self.index - 1], num_patches)


class Stage(nn.Module):
    """One reduction stage. A method overrides one of the three hooks and `macs`.

    Options of a method are the keyword-only parameters of its `__init__`, with defaults.
    """

    family: ClassVar[Literal["pruning", "merging", "soft", "control", "baseline"]]
    citation: ClassVar[str]
    patterns: ClassVar[tuple[Literal["kept", "groups"], ...]]
    """What the method records in a trace."""
    needs_cls: ClassVar[bool] = False
    needs_grid: ClassVar[bool] = False
    """Whether it goes by the patches' places, and hence needs all of them."""
    fixed_budget: ClassVar[bool] = True
    """Whether the keep rate decides how many tokens are left, with options at their defaults."""
    pads: ClassVar[bool] = False
    """Whether images of a batch may keep different numbers of tokens."""
    masks_in_training: ClassVar[bool] = False
    """Whether training drops nothing, but masks tokens in the attention of every block."""
    looks_back: bool = False
    """Whether `before_block` needs the attention of the block before."""

    def __init__(self, spec: StageSpec) -> None:
        super().__init__()
        self.spec = spec

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Return the method's own options with their defaults."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    @classmethod
    def schedule(
        cls, keep_rate: KeepRate, reduction_loc: Sequence[int], **options: Any
    ) -> dict[int, float]:
        """Return for each block that reduces the fraction of the original tokens to keep."""
        return dict(zip(reduction_loc, keep_fractions(keep_rate, len(reduction_loc)), strict=True))

    @classmethod
    def has_fixed_budget(cls, **options: Any) -> bool:
        """Return whether the keep rate decides how many tokens are left, with these `options`."""
        return cls.fixed_budget

    @classmethod
    def overrides(cls, hook: str) -> bool:
        """Return whether the method acts at `hook`, the name of one of the three below."""
        return getattr(cls, hook) is not getattr(Stage, hook)

    @classmethod
    def opens_block(cls) -> bool:
        """Return whether the method needs the block's attention, not just its input."""
        return cls.overrides("select_queries") or cls.overrides("after_attention")

    # The three places where a method may act ------------------------------------------------

    def before_block(self, tokens: Tokens) -> Tokens:
        """Reduce the residual stream before the block's first norm."""
        return tokens

    def select_queries(
        self, tokens: Tokens, attention: AttentionView
    ) -> tuple[Tokens, Tensor | None]:
        """Choose which tokens ask in the block's attention; all of them are still asked.

        Returns:
            The tokens that go on, and their rows [B, K] in the incoming sequence, prefix included
            (None: all of them, unchanged).
        """
        return tokens, None

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Tokens:
        """Reduce between the attention's residual and the block's second norm."""
        return tokens

    def acts(self, tokens: Tokens) -> bool:
        """Return whether there are more patch tokens than the target, for any size of image."""
        return self.spec.target(tokens.num_patches) < tokens.count

    # What it costs --------------------------------------------------------------------------

    def count(self, incoming: int) -> int:
        """Return how many of `incoming` patch tokens are left, at most, at the host's size."""
        return min(incoming, self.spec.target(self.spec.num_patches))

    def acts_on(self, incoming: Count) -> Any:
        """Return whether `incoming` patch tokens are more than the target, hence worth a look."""
        return incoming > self.spec.target(self.spec.num_patches)

    def macs(self, incoming: Count, left: Count, block: Block) -> Count:
        """Return multiply-accumulates of the method's own matrix products, for one image.

        Args:
            incoming: Patch tokens that enter the stage.
            left: Patch tokens that leave it.
            block: The host's block it sits at.
        """
        return 0

    def extra_repr(self) -> str:
        """Return what `print(model)` shows of the stage."""
        return f"block={self.spec.block}, keep={self.spec.fractions[self.spec.index]:.4g}"
