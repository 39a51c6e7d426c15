"""DynamicViT: a small network per stage learns which tokens to drop."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reduction.plan import Keep, Mask, Plan
from reduction.stage import Count, HostBlock, Stage, StageSpec
from reduction.tokens import Tokens, largest


class DynamicViT(Stage):
    """Keeps the tokens that the network most wants to keep, in descending order.

    Training draws the decisions instead, and masks tokens in all attention rather than dropping
    them; `ReductionTrace.decisions` and `.features` have what the loss needs.
    """

    family = "pruning"
    citation = "Rao et al., DynamicViT: Dynamic Token Sparsification, NeurIPS 2021"
    patterns = ("kept",)
    masks_in_training = True
    drops_none_in_training = True
    hands_to_loss = True

    def __init__(self, spec: StageSpec) -> None:
        super().__init__(spec)
        dim = spec.dim
        self.in_norm = nn.LayerNorm(dim)
        self.in_fc = nn.Linear(dim, dim)
        self.out_fc1 = nn.Linear(dim, dim // 2)
        self.out_fc2 = nn.Linear(dim // 2, dim // 4)
        self.out_fc3 = nn.Linear(dim // 4, 2)

    def log_probabilities(self, x: Tensor, policy: Tensor) -> Tensor:
        """Return log-probabilities [B, N, 2] to keep and to drop tokens x [B, N, C].

        Args:
            x: Patch tokens.
            policy: [B, N], 1 for tokens kept so far, over which half of the channels are averaged.
        """
        local, shared = F.gelu(self.in_fc(self.in_norm(x))).tensor_split([x.shape[-1] // 2], dim=-1)
        weights = policy[..., None]
        # In training, no token at all may be kept of a small image.
        count = weights.sum(1, keepdim=True).clamp(min=1)
        average = (weights * shared).sum(1, keepdim=True) / count + 1e-6
        hidden = torch.cat((local, average.to(local.dtype).expand_as(shared)), dim=-1)
        hidden = F.gelu(self.out_fc2(F.gelu(self.out_fc1(hidden))))
        return self.out_fc3(hidden).log_softmax(dim=-1)

    def before_block(self, tokens: Tokens) -> Plan:
        """Keep the target count of tokens; in training, only decide."""
        everything = torch.ones_like(tokens.patches[..., 0])
        if self.training:
            return self._decide(tokens, everything if tokens.policy is None else tokens.policy)
        scores = self.log_probabilities(tokens.patches, everything)[..., 0]
        return Keep(index=largest(scores, self.spec.target(tokens.num_patches)))

    def acts(self, tokens: Tokens) -> bool:
        """Return whether to drop tokens; in training, each stage decides."""
        return self.training or super().acts(tokens)

    def _decide(self, tokens: Tokens, policy: Tensor) -> Plan:
        logits = self.log_probabilities(tokens.patches, policy)
        kept = straight_through(logits + gumbel_noise(logits))[..., 0] * policy
        return Mask(policy=kept)

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the network."""
        layers = (self.in_fc, self.out_fc1, self.out_fc2, self.out_fc3)
        per_token = sum(layer.in_features * layer.out_features for layer in layers)
        return self.acts_on(incoming) * incoming * per_token


def gumbel_noise(logits: Tensor) -> Tensor:
    """Return standard Gumbel noise of the same shape."""
    return -torch.empty_like(logits).exponential_().log()


def straight_through(logits: Tensor) -> Tensor:
    """Return the one-hot of the largest over the last dimension, with the softmax's gradient."""
    soft = logits.softmax(dim=-1)
    hard = torch.zeros_like(logits).scatter(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
    return hard + (soft - soft.detach())  # in this order the value is exactly 0 or 1
