"""DiffRate: in every block, drop so many tokens and merge so many, by learned counts."""

import itertools
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from reduction.attention import AttentionView
from reduction.matching import Matching, nearest
from reduction.methods.learned_counts import LearnedCount, merge_masked
from reduction.methods.token_ranking import Ranking
from reduction.plan import NOTHING, Keep, Mask, Merge, Plan
from reduction.schedule import Schedule
from reduction.stage import Count, HostBlock, StageSpec
from reduction.tokens import Tokens, at_least_float32, gather_tokens, largest
from reduction.trace import Learning


class DiffRate(Ranking):
    """Sorts tokens by CLS attention, drops the last ones and merges the last of the rest.

    Each merged token joins the most similar of those before it, by cosine. A group becomes its
    plain mean; its size grows by the members' sizes times their similarity.
    """

    family = "merging"
    citation = (
        "Chen et al., DiffRate: Differentiable Compression Rate for Efficient "
        "Vision Transformers, ICCV 2023"
    )
    patterns = ("groups",)

    def __init__(
        self,
        spec: StageSpec,
        *,
        prune: tuple[int, ...] = (),
        merge: tuple[int, ...] = (),
        learned: bool = False,
        score: str = "cls",
    ) -> None:
        """Set up the stage.

        Args:
            spec: Where the stage sits.
            prune: For every block, the tokens left after dropping some, CLS included; numbers not
                below those there are do nothing, neither does an empty list.
            merge: The same after merging. With one of these lists, the published form, every block
                reduces whatever the keep rate; without, half of the tokens to go are dropped.
            learned: Learn both numbers for every block but the first. Training drops nothing, but
                masks tokens; the trace's `learning` has the number that is left.
            score: What tokens are sorted by, see `Ranking`.
        """
        super().__init__(spec, score=score)
        if learned and (prune or merge):
            raise ValueError("learned is True, but must be False where prune or merge is given")
        self.prune, self.merge, self.learned = tuple(prune), tuple(merge), learned
        self.masks_in_training = self.drops_none_in_training = self.hands_to_loss = learned
        self.learns_counts = self.shaped_by_count = learned
        if learned:
            self.pruned = LearnedCount(spec.num_patches, spec.num_prefix)
            self.merged = LearnedCount(spec.num_patches, spec.num_prefix)

    @classmethod
    def has_fixed_budget(cls, **options: Any) -> bool:
        """Return whether the keep rate counts, which neither listed nor learned numbers look at."""
        return not (options.get("prune") or options.get("merge") or options.get("learned"))

    @classmethod
    def schedule(cls, asked: Schedule, depth: int, **options: Any) -> Schedule:
        """Return the schedule asked for; with lists of counts, a stage in every block."""
        if cls.has_fixed_budget(**options):
            return asked
        if options.get("learned"):
            blocks = tuple(range(1, depth))
            return Schedule(blocks=blocks, fractions=(Fraction(1),) * len(blocks))
        lists = {name: options[name] for name in ("prune", "merge") if options.get(name)}
        for name, counts in lists.items():
            if len(counts) != depth or min(counts) < 2:
                raise ValueError(
                    f"{name} is {list(counts)}, but must have a number of at least 2 "
                    f"for each of the host's {depth} blocks"
                )
        # In the order of the blocks, so that no number rises.
        left = (min(counts) - 1 for counts in zip(*lists.values(), strict=True))
        fewest = itertools.accumulate(left, min)
        return Schedule(blocks=tuple(range(depth)), tokens=tuple(fewest))

    def begin(self, tokens: Tokens) -> Plan:
        """Mask nothing yet, where training masks tokens in the attention of every block."""
        if not (self.learned and self.training):
            return NOTHING
        return Mask(policy=torch.ones_like(tokens.patches[..., 0]), decides=False)

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Drop and merge; what is left goes in descending order of CLS attention."""
        if self.learned and self.training:
            return self._reduce_softly(tokens, attention)
        kept, left = self.counts(tokens.count, self.spec.target(tokens.num_patches))
        scores = attention.scores(self.score)
        stay, merged = largest(scores, kept).tensor_split([left], dim=1)
        similarity, into = nearest(at_least_float32(tokens.patches), merged, stay)
        matching = Matching(stay, merged, into)
        sizes = tokens.sizes
        if sizes is None:
            sizes = torch.ones_like(scores)
        # Detached again, as exporters lose sight of `no_grad`.
        gained = sizes.gather(1, merged) * similarity.detach().clamp(min=0)
        assignment = matching.assignment(tokens.count)
        shares = (1 / matching.members(sizes.dtype)).gather(1, assignment.clamp(min=0))
        return Merge(
            assignment=assignment,
            count=left,
            drops=True,
            shares=shares,
            sizes=sizes.gather(1, stay).scatter_add(1, into, gained),
            proportional=True,
        )

    def _reduce_softly(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Sort tokens by CLS attention; merge some and mask those that would be gone."""
        prefix, total = tokens.num_prefix, tokens.num_prefix + tokens.count
        order = largest(attention.scores(self.score).detach(), tokens.count)
        x = gather_tokens(at_least_float32(tokens.patches), order)
        sizes, policy = (
            torch.ones_like(x[..., 0]) if each is None else each.gather(1, order)
            for each in (tokens.sizes, tokens.policy)
        )
        live = tokens.carried.get("live", torch.full((), total, device=x.device))
        kept, left = self.pruned(), self.merged()
        after_pruning = live.detach().minimum(kept.detach())
        places = torch.arange(prefix, total, device=x.device)
        x, sizes = merge_masked(
            x,
            sizes,
            sources=((places >= left) & (places < after_pruning)).expand_as(order),
            targets=(places < left).expand_as(order),
        )
        mask = self.pruned.mask(live, total) * self.merged.mask(after_pruning, total)
        count = _straight_through(after_pruning.minimum(left), kept, left)
        return Keep(
            index=order,
            features=x,
            sizes=sizes,
            proportional=True,
            policy=policy * mask[prefix:],
            carried={"live": count},
            learning=Learning(count=count),
        )

    def acts(self, tokens: Tokens) -> bool:
        """Return whether there is anything to drop or merge."""
        if self.learned and self.training:
            return True
        return self.counts(tokens.count, self.spec.target(tokens.num_patches))[1] < tokens.count

    def counts(self, incoming: Count, target: int) -> tuple[Count, Count]:
        """Return how many of `incoming` patch tokens are left after dropping, and after merging."""
        if self.has_fixed_budget(prune=self.prune, merge=self.merge, learned=self.learned):
            left = _least(incoming, target)
            return incoming - (incoming - left) // 2, left
        if self.learned:
            prefix = self.spec.num_prefix
            kept = _least(incoming, self.pruned.number() - prefix)
            return kept, _least(kept, self.merged.number() - prefix)
        block = self.spec.block
        kept = _least(incoming, self.prune[block] - 1) if self.prune else incoming
        return kept, _least(kept, self.merge[block] - 1) if self.merge else kept

    def count(self, incoming: int) -> int:
        """Return the tokens left."""
        return self.counts(incoming, self.spec.target(self.spec.num_patches))[1]

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the scores and of the similarities."""
        kept, _ = self.counts(incoming, self.spec.target(self.spec.num_patches))
        scores = self.score_macs(incoming, block)
        return (left < incoming) * (scores + (kept - left) * left * self.spec.dim)


def _straight_through(count: Tensor, *numbers: Tensor) -> Tensor:
    """Return a count with the gradients of all numbers that it came of."""
    return count.detach() + torch.stack([x - x.detach() for x in numbers]).sum()


def _least(count: Count, limit: int) -> Count:
    return count - (count > limit) * (count - limit)
