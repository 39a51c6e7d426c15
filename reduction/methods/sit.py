"""SiT: a small network decides how much of each token goes into each output."""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from reduction.stage import Count, Stage, StageSpec
from reduction.tokens import Tokens


class SiT(Stage):
    """Maps the tokens softly to as many as the target at the host's own image size."""

    family = "soft"
    citation = "Zong et al., Self-slimmed Vision Transformer, ECCV 2022"
    patterns = ("groups",)

    def __init__(self, spec: StageSpec) -> None:
        super().__init__(spec)
        self.norm = nn.LayerNorm(spec.dim)
        self.fc1 = nn.Linear(spec.dim, spec.dim // 2)
        self.fc2 = nn.Linear(spec.dim // 2, spec.target(spec.num_patches))
        self.scale = nn.Parameter(torch.ones(1, 1, 1))

    def weights(self, x: Tensor) -> Tensor:
        """Return the weights [B, K, N] of tokens x [B, N, C], of sum 1 over the tokens."""
        logits = self.fc2(F.gelu(self.fc1(self.norm(x)))) * self.scale
        return logits.softmax(dim=1).transpose(1, 2)

    def before_block(self, tokens: Tokens) -> Tokens:
        """Replace the tokens by weighted sums of them."""
        weights = self.weights(tokens.patches)
        if tokens.recorder is not None:
            tokens.recorder.merge_softly(self.spec.block, weights)
        return tokens.with_patches(weights @ tokens.patches)

    def count(self, incoming: int) -> int:
        """Return the number of outputs, whatever comes in."""
        return self.fc2.out_features

    def macs(self, incoming: Count, left: Count, block: Block) -> Count:
        """Return the cost of the network and of the sums."""
        dim, hidden = self.spec.dim, self.fc1.out_features
        return incoming * (dim * hidden + hidden * left + left * dim)
