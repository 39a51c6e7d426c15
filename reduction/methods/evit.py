"""EViT: keep the tokens the CLS token attends to most, fuse the others into one."""

import torch

from reduction.attention import AttentionView
from reduction.methods.topk import TopK
from reduction.tokens import Tokens, gather_tokens, largest


class EViT(TopK):
    """Top-K with one extra, last token: the sum of the others weighted by their CLS attention.

    A later stage treats that token as any other.
    """

    citation = "Liang et al., Not All Patches are What You Need (EViT), ICLR 2022"

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Tokens:
        """Keep the target count of tokens and append the fused one."""
        target = self.spec.target(tokens.num_patches)
        if target >= tokens.count:
            return tokens
        scores = attention.cls
        kept, dropped = largest(scores, tokens.count).tensor_split([target], dim=1)
        if tokens.recorder is not None:
            no_patch = kept.new_full((kept.shape[0], 1), -1)
            tokens.recorder.keep(self.spec.block, torch.cat((kept, no_patch), dim=1))
        weights = scores.gather(1, dropped)[..., None].to(tokens.x.dtype)
        fused = (weights * gather_tokens(tokens.patches, dropped)).sum(dim=1, keepdim=True)
        return tokens.with_patches(torch.cat((gather_tokens(tokens.patches, kept), fused), dim=1))

    def count(self, incoming: int) -> int:
        """Return the target count and the fused token."""
        left = super().count(incoming)
        return left if left == incoming else left + 1
