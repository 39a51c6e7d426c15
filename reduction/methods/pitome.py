"""PiToMe: merge tokens that have many alike, and protect those that have few."""

import torch
import torch.nn.functional as F
from torch import Tensor

from reduction.attention import AttentionView
from reduction.matching import Matching, nearest
from reduction.methods.tome import ToMe
from reduction.projections import attention_of, head_dim
from reduction.stage import Count, HostBlock, StageSpec
from reduction.tokens import Tokens, largest, without_autocast

FIRST = ("bipartite", "protect")


class PiToMe(ToMe):
    """Merges tokens of high energy, whose keys point the way of many others.

    Tokens of odd rank by energy propose to those of even rank. In one half of the blocks all do and
    the best proposals are carried out; in the other, only as many as shall merge, and all of them
    do. At most half of the tokens merge, so that more than the target may be left.
    """

    citation = (
        "Tran et al., Accelerating Transformers with Spectrum-Preserving Token Merging, "
        "NeurIPS 2024"
    )

    def __init__(
        self,
        spec: StageSpec,
        *,
        first: str = "bipartite",
        margin: float = 0.75,
        proportional: bool = False,
    ) -> None:
        """Set up the stage.

        Args:
            spec: Where the stage sits.
            first: Which tokens propose in the first half of the blocks: all (`bipartite`), or only
                those of highest energy (`protect`). The second half has the other kind.
            margin: Cosine above which two keys count as alike in block 0; it falls linearly towards
                0 in the block after the last.
            proportional: Weigh keys by token size from then on.
        """
        super().__init__(spec, proportional=proportional)
        if first not in FIRST:
            raise ValueError(f"first is {first!r}, but must be one of {', '.join(FIRST)}")
        self.first, self.margin = first, margin

    @property
    def protects(self) -> bool:
        """Whether only tokens of the highest energy propose."""
        in_first_half = self.spec.block < (self.spec.depth + 1) // 2
        return in_first_half == (self.first == "protect")

    def match(self, tokens: Tokens, attention: AttentionView, merges: int) -> Matching:
        """Pair tokens by energy, then by their keys."""
        keys = attention.mean_keys[:, tokens.num_prefix :]
        margin = self.margin - self.margin * (self.spec.block / self.spec.depth)
        return energy_matching(keys, merges, margin=margin, protect=self.protects)

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the energies and of the proposals."""
        merges = incoming - left
        half = incoming // 2
        pairs = merges * merges if self.protects else half * (incoming - half)
        return (left < incoming) * (incoming * incoming + pairs) * head_dim(attention_of(block))


@torch.no_grad()
def energy_matching(keys: Tensor, merges: int, *, margin: float, protect: bool) -> Matching:
    """Return which tokens merge, by algorithm 1 of the paper.

    Args:
        keys: [B, N, D] of the patch tokens.
        merges: Tokens to merge, at most N // 2.
        margin: Cosine from which on two keys count as alike.
        protect: Pair the 2 * `merges` tokens of highest energy alone; else all of them, of whose
            proposals the best are carried out.

    Returns:
        First the protected tokens by energy, or those whose proposals are not carried out by their
        similarity; then the partners by energy; always descending.
    """
    unit = F.normalize(keys, dim=-1)
    with without_autocast(unit):
        energy = F.elu((unit @ unit.mT).sub_(margin)).mean(dim=-1)
    order = largest(energy, keys.shape[1])
    paired, protected = order.tensor_split([2 * merges if protect else keys.shape[1]], dim=1)
    sources, targets = paired[:, ::2], paired[:, 1::2]
    similarity, partner = nearest(keys, sources, targets)
    merged, unmerged = largest(similarity, sources.shape[1]).tensor_split([merges], dim=1)
    alone = torch.cat((protected, sources.gather(1, unmerged)), dim=1)
    into = partner.gather(1, merged) + alone.shape[1]
    return Matching(torch.cat((alone, targets), dim=1), sources.gather(1, merged), into)
