"""ATC: cluster the tokens bottom-up on the similarity of their keys."""

import torch
import torch.nn.functional as F
from torch import Tensor

from reduction.agglomeration import LINKAGES, agglomerate
from reduction.attention import AttentionView
from reduction.plan import Merge, Plan
from reduction.projections import attention_of, head_dim
from reduction.stage import Count, HostBlock, Stage, StageSpec
from reduction.tokens import Tokens, without_autocast


class ATC(Stage):
    """Merges the two nearest clusters until the target count is left, in order of first member."""

    family = "merging"
    citation = "Haurum et al., Agglomerative Token Clustering, ECCV 2024"
    patterns = ("groups",)

    def __init__(
        self, spec: StageSpec, *, linkage: str = "average", proportional: bool = True
    ) -> None:
        """Set up the stage.

        Args:
            spec: Where the stage sits.
            linkage: Distance of clusters: the mean (`average`), least (`single`) or largest
                (`complete`) cosine distance of their tokens' keys.
            proportional: Weight keys by token size from then on.
        """
        super().__init__(spec)
        if linkage not in LINKAGES:
            raise ValueError(f"linkage is {linkage!r}, but must be one of {', '.join(LINKAGES)}")
        self.linkage = linkage
        self.proportional = proportional

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Replace the tokens by the size-weighted means of clusters."""
        target = self.spec.target(tokens.num_patches)
        keys = attention.mean_keys[:, tokens.num_prefix :]
        assignment = agglomerate(cosine_distances(keys), target, self.linkage)
        return Merge(assignment=assignment, count=target, proportional=self.proportional)

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the similarities."""
        return self.acts_on(incoming) * incoming * incoming * head_dim(attention_of(block))


@torch.no_grad()
def cosine_distances(x: Tensor) -> Tensor:
    """Return one minus the cosines [B, N, N] of the rows of x [B, N, D]."""
    x = F.normalize(x, dim=-1)
    with without_autocast(x):
        return 1 - x @ x.mT
