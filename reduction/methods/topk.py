"""Top-K: keep the patch tokens that the CLS token attends to most."""

from timm.models.vision_transformer import Block

from reduction.attention import AttentionView
from reduction.stage import Count, Stage
from reduction.tokens import Tokens, gather_tokens, largest


class TopK(Stage):
    """Keeps the tokens with the largest CLS attention, in descending order of it."""

    family = "pruning"
    citation = "Haurum et al., Which Tokens to Use?, ICCV Workshops 2023"
    patterns = ("kept",)
    needs_cls = True

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Tokens:
        """Keep the target count of tokens."""
        target = self.spec.target(tokens.num_patches)
        if target >= tokens.count:
            return tokens
        index = largest(attention.cls, target)
        if tokens.recorder is not None:
            tokens.recorder.keep(self.spec.block, index)
        return tokens.with_patches(gather_tokens(tokens.patches, index))

    def macs(self, incoming: Count, left: Count, block: Block) -> Count:
        """Return the cost of the CLS row of the attention."""
        return self.acts_on(incoming) * (incoming + self.spec.num_prefix) * block.attn.attn_dim
