"""ToMe: merge the most similar pairs of tokens."""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor

from reduction.attention import AttentionView
from reduction.stage import Count, Stage
from reduction.tokens import Tokens, merge_by_size, weigh_keys, without_autocast


class ToMe(Stage):
    """Merges tokens at even positions into the odd ones that have the most similar keys.

    CLS, where there is one, is position 0 and never merges. The stage merges the difference
    between its target and that of the stage before, at most half of the tokens, so that more
    tokens than the target may be left.
    """

    family = "merging"
    citation = "Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023"
    patterns = ("groups",)

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Tokens:
        """Merge, and weight keys by token size from now on."""
        merges = self._merges(tokens.count, tokens.num_patches)
        if merges == 0:
            return tokens
        keys = attention.mean_keys[:, tokens.num_prefix :]
        assignment = bipartite_matching(keys, merges, after_cls=self.spec.has_cls)
        if tokens.recorder is not None:
            tokens.recorder.merge(self.spec.block, assignment)
        return weigh_keys(merge_by_size(tokens, assignment, tokens.count - merges))

    def _merges(self, incoming: int, num_patches: int) -> int:
        nominal = self.spec.target_before(num_patches) - self.spec.target(num_patches)
        return min(nominal, incoming // 2)

    def count(self, incoming: int) -> int:
        """Return the tokens left, which the cap can make more than the target."""
        return incoming - self._merges(incoming, self.spec.num_patches)

    def macs(self, incoming: Count, left: Count, block: Block) -> Count:
        """Return the cost of the similarities of even and odd tokens."""
        even = incoming // 2
        return (left < incoming) * even * (incoming - even) * block.attn.head_dim


@torch.no_grad()
def bipartite_matching(keys: Tensor, merges: int, *, after_cls: bool) -> Tensor:
    """Return where each patch token goes when the `merges` best proposals are merged.

    Args:
        keys: [B, N, D] of the patch tokens.
        merges: Pairs to merge, at most N // 2.
        after_cls: Whether the patches count from position 1, after CLS, or from 0.

    Returns:
        [B, N] positions in 0..N - merges - 1: first the tokens at even positions that do not
        merge, ascending, then all at odd ones.
    """
    evens, odds = slice(int(after_cls), None, 2), slice(1 - after_cls, None, 2)
    keys = F.normalize(keys, dim=-1)
    with without_autocast(keys):
        similarity, partner = (keys[:, evens] @ keys[:, odds].mT).max(dim=-1)
    merges_most = similarity.argsort(dim=1, descending=True, stable=True)[:, :merges]
    merged = torch.zeros_like(partner, dtype=torch.bool).scatter(1, merges_most, True)

    unmerged = partner.shape[1] - merges
    assignment = partner.new_empty(keys.shape[:2])
    assignment[:, evens] = torch.where(merged, unmerged + partner, (~merged).cumsum(dim=1) - 1)
    assignment[:, odds] = torch.arange(unmerged, keys.shape[1] - merges, device=keys.device)
    return assignment
