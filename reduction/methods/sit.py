"""SiT: a small network decides how much of each token goes into each output."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reduction.methods.soft import SoftMerging
from reduction.stage import Count, HostBlock, StageSpec


class SiT(SoftMerging):
    """Replaces the tokens by weighted sums of them, weights of sum 1 over the tokens."""

    citation = "Zong et al., Self-slimmed Vision Transformer, ECCV 2022"

    def __init__(self, spec: StageSpec) -> None:
        super().__init__(spec)
        self.norm = nn.LayerNorm(spec.dim)
        self.fc1 = nn.Linear(spec.dim, spec.dim // 2)
        self.fc2 = nn.Linear(spec.dim // 2, self.num_outputs)
        self.scale = nn.Parameter(torch.ones(1, 1, 1))

    def weights(self, x: Tensor) -> Tensor:
        """Return the softmax over the tokens of the network's outputs."""
        logits = self.fc2(F.gelu(self.fc1(self.norm(x)))) * self.scale
        return logits.softmax(dim=1).transpose(1, 2)

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the network and of the sums."""
        dim, hidden = self.spec.dim, self.fc1.out_features
        return incoming * (dim * hidden + hidden * left + left * dim)
