"""The base class of all methods: one stage of reduction at one block."""

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from reduction.attention import AttentionView
from reduction.plan import NOTHING, Plan
from reduction.schedule import MethodOptions, Schedule
from reduction.tokens import Tokens

HostBlock = Any
"""A block of the host, of any kind that a stage can look into."""
Count = Any
"""A number of tokens or of operations: int, float, or a tensor [B] with one an image."""


def has_cls(model: nn.Module) -> bool:
    """Return whether the first token of a timm ViT is a CLS token."""
    owner = getattr(model, "embeds", model)  # of timm's `NaFlexVit`
    return getattr(owner, "cls_token", None) is not None


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """Where a stage sits, and what it is asked to keep."""

    index: int
    """Number of stages before it."""
    schedule: Schedule
    """Blocks and numbers of tokens of all stages of the model."""
    grid: tuple[int, int]
    """Rows and columns of the host's grid of patches."""
    dim: int
    """C, channels of the host."""
    head_dim: int
    """D, channels of a head of its attention."""
    depth: int
    """Blocks of the host."""
    num_prefix: int
    """P, prefix tokens of the host."""
    has_cls: bool
    """Whether the host has a CLS token (it then is the first prefix token)."""
    num_classes: int
    """Outputs of the host's head, 0 where it has none."""

    @property
    def block(self) -> int:
        """0-based index of the stage's block."""
        return self.schedule.blocks[self.index]

    @property
    def num_patches(self) -> int:
        """N0 at the host's own image size."""
        return self.grid[0] * self.grid[1]

    def target(self, num_patches: int) -> int:
        """Return how many of `num_patches` original tokens this stage keeps, nominally."""
        return self.schedule.targets(num_patches)[self.index]

    def target_before(self, num_patches: int) -> int:
        """Return the same of the stage before, `num_patches` for the first stage."""
        return (num_patches, *self.schedule.targets(num_patches))[self.index]

    def removal(self, num_patches: int) -> int:
        """Return how many tokens this stage is asked to remove, whatever earlier ones did."""
        return self.target_before(num_patches) - self.target(num_patches)


class Stage(nn.Module):
    """One reduction stage. A method overrides one of the hooks, which return plans, and `macs`.

    Options of a method are the keyword-only parameters of its `__init__`, with defaults.
    """

    family: ClassVar[Literal["pruning", "merging", "soft", "control", "baseline"]]
    citation: ClassVar[str]
    patterns: ClassVar[tuple[Literal["kept", "groups"], ...]]
    """What the method records in a trace."""
    needs_cls: ClassVar[bool] = False
    """Whether the host must have a CLS token, with options at their defaults."""
    needs_grid: ClassVar[bool] = False
    """Whether it goes by the patches' places, and hence needs all of them."""
    fixed_budget: ClassVar[bool] = True
    """Whether the keep rate decides how many tokens are left, with options at their defaults."""
    capped: ClassVar[bool] = False
    """Whether a stage removes less than it is asked to where that is too much."""
    shaped_by_count: bool = False
    """Whether the shapes of its parameters depend on how many tokens it keeps."""
    rests: ClassVar[bool] = False
    """Whether tokens that it does not choose come back after the block."""
    pads: ClassVar[bool] = False
    """Whether images of a batch may keep different numbers of tokens."""
    masks_in_training: bool = False
    """Whether training drops nothing, but masks tokens in the attention of every block."""
    drops_none_in_training: bool = False
    """Whether training computes with all tokens, whatever it decides."""
    hands_to_loss: bool = False
    """Whether the loss of its training needs the trace."""
    learns_counts: bool = False
    """Whether training learns how many tokens to keep."""
    trains_beside_fuller: ClassVar[bool] = False
    """Whether each step of its training also takes a pass that reduces less."""
    looks_back: bool = False
    """Whether `before_block` needs the attention of the block before."""

    def __init__(self, spec: StageSpec) -> None:
        super().__init__()
        self.spec = spec

    @classmethod
    def options(cls) -> MethodOptions:
        """Return the method's own options with their defaults."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    @classmethod
    def schedule(cls, asked: Schedule, depth: int, **options: Any) -> Schedule:
        """Return the schedule of a host of `depth` blocks that comes of the one asked for."""
        return asked

    @classmethod
    def has_fixed_budget(cls, **options: Any) -> bool:
        """Return whether the keep rate decides how many tokens are left, with these `options`."""
        return cls.fixed_budget

    @classmethod
    def ranks_by_cls(cls, **options: Any) -> bool:
        """Return whether the method needs a host with a CLS token, with these `options`."""
        return cls.needs_cls and options.get("score", "cls") == "cls"

    @classmethod
    def overrides(cls, hook: str) -> bool:
        """Return whether the method acts at `hook`, the name of one of those below."""
        return getattr(cls, hook) is not getattr(Stage, hook)

    @classmethod
    def looks_inside(cls) -> bool:
        """Return whether the method needs a known kind of block, with options at their defaults."""
        inner = any(cls.overrides(hook) for hook in (*INNER_HOOKS, "filter_attention"))
        return inner or cls.looks_back or cls.masks_in_training

    def acts_at(self, hook: str) -> bool:
        """Return whether the stage acts at `hook`, with its options."""
        return self.overrides(hook)

    def opens_block(self) -> bool:
        """Return whether the stage needs the block's attention, not just its input."""
        return any(self.acts_at(hook) for hook in INNER_HOOKS)

    # The places where a method may act; called only where the stage `acts` --------------------

    def begin(self, tokens: Tokens) -> Plan:
        """Look at the embedded tokens before block 0; called on the first stage only."""
        return NOTHING

    def before_block(self, tokens: Tokens) -> Plan:
        """Reduce the residual stream before the block's first norm."""
        return NOTHING

    def before_attention(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Reduce the residual stream before the block, by what its attention would be.

        The block then attends anew, but where `Merge.reuses_attention`.
        """
        return NOTHING

    def select_queries(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Choose, by a `Keep`, which tokens ask in the attention; all are still asked."""
        return NOTHING

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Reduce between the attention's residual and the block's second norm."""
        return NOTHING

    def after_block(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Reduce after the MLP, by the block's own attention."""
        return NOTHING

    def filter_attention(self, probabilities: Tensor) -> Tensor:
        """Change the attention [B, H, rows, P + N] of every block; of the first stage only."""
        return probabilities

    def acts(self, tokens: Tokens) -> bool:
        """Return whether the stage has anything to do; else its hooks are not called."""
        return self.spec.target(tokens.num_patches) < tokens.count

    # What it costs --------------------------------------------------------------------------

    def count(self, incoming: int) -> int:
        """Return how many of `incoming` patch tokens are left, at most, at the host's size."""
        return min(incoming, self.spec.target(self.spec.num_patches))

    def acts_on(self, incoming: Count) -> Any:
        """Return whether `incoming` patch tokens are more than the target, hence worth a look."""
        return incoming > self.spec.target(self.spec.num_patches)

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return multiply-accumulates of the method's own matrix products, for one image.

        Args:
            incoming: Patch tokens that enter the stage.
            left: Patch tokens that leave it.
            block: The host's block it sits at.
        """
        return 0

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that weight decay should leave alone."""
        return set()

    # When the model changes -------------------------------------------------------------------

    def respecify(self, spec: StageSpec) -> None:
        """Take another place, size of image or number of tokens; parameters stay."""
        self.spec = spec

    def extra_repr(self) -> str:
        """Return what `print(model)` shows of the stage."""
        return f"block={self.spec.block}, {self.spec.schedule.describe(self.spec.index)}"


INNER_HOOKS = ("before_attention", "select_queries", "after_attention", "after_block")
"""The hooks that see the block's attention."""
