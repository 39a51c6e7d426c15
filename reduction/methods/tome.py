"""ToMe: merge the most similar pairs of tokens."""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor

from reduction.attention import AttentionView
from reduction.stage import Count, Stage
from reduction.tokens import Tokens, merge_by_size, weigh_keys


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
        first = tokens.num_prefix - self.spec.has_cls
        metric = attention.mean_keys[:, first:]
        assignment = bipartite_matching(metric, merges, has_cls=self.spec.has_cls)
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
        if not isinstance(left, Tensor) and incoming == left:
            return 0
        total = incoming + self.spec.has_cls
        return ((total + 1) // 2) * (total // 2) * block.attn.head_dim


@torch.no_grad()
def bipartite_matching(metric: Tensor, merges: int, *, has_cls: bool) -> Tensor:
    """Return where each patch token goes when the `merges` best proposals are merged.

    Args:
        metric: [B, T, D] of CLS (where there is one, first) and the N patch tokens.
        merges: Pairs to merge, at most N // 2.
        has_cls: Whether position 0 is a CLS token, which makes no proposal.

    Returns:
        [B, N] positions in 0..N - merges - 1: first the even tokens that do not merge, ascending,
        then all odd ones.
    """
    metric = F.normalize(metric, dim=-1)
    even, odd = metric[:, ::2], metric[:, 1::2]
    with torch.autocast(metric.device.type, enabled=False):
        best, partner = (even @ odd.transpose(-2, -1)).max(dim=-1)
    if has_cls:
        best[:, 0] = -torch.inf
    merged = best.argsort(dim=1, descending=True, stable=True)[:, :merges]
    merges_into = torch.zeros_like(partner, dtype=torch.bool).scatter(1, merged, True)

    unmerged = even.shape[1] - merges
    place = torch.where(merges_into, unmerged + partner, (~merges_into).cumsum(dim=1) - 1)
    assignment = metric.new_empty(metric.shape[:2], dtype=torch.int64)
    assignment[:, ::2] = place
    assignment[:, 1::2] = unmerged + torch.arange(odd.shape[1], device=metric.device)
    return assignment[:, 1:] - 1 if has_cls else assignment
