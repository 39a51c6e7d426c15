"""GTP: dropped tokens give part of themselves to their neighbours in a graph of patches."""

import numpy as np
import torch
from torch import Tensor

from reduction.attention import AttentionView
from reduction.patch_graph import KINDS, patch_graph
from reduction.plan import NOTHING, Keep, Plan
from reduction.projections import attention_dim, attention_of
from reduction.stage import Count, HostBlock, Stage, StageSpec
from reduction.tokens import Tokens, gather_tokens, largest

SELECTIONS = ("mixed_max", "cls_mean")


class GTP(Stage):
    """Keeps tokens that see themselves and are seen by others; the rest flows to neighbours.

    The graph is made once, of the embedded patches. In every block, also before the first stage,
    only the strongest attention counts.
    """

    family = "pruning"
    citation = (
        "Xu et al., GTP-ViT: Efficient Vision Transformers via Graph-based Token Propagation, "
        "WACV 2024"
    )
    patterns = ("kept",)
    needs_grid = True

    def __init__(
        self,
        spec: StageSpec,
        *,
        sparsity: float = 0.6,
        alpha: float = 0.1,
        k: int = 8,
        graph: str = "mixed",
        selection: str = "mixed_max",
        scales: bool = True,
    ) -> None:
        """Set up the stage.

        Args:
            spec: Where the stage sits.
            sparsity: Share of each head's attention map that counts, in (0, 1]; smaller
                probabilities are 0.
            alpha: How much of a dropped token reaches its neighbours.
            k: Neighbours of a patch in the semantic graph, by the cosine of their embeddings.
            graph: `spatial` joins the patches around a patch, `semantic` those alike, `mixed` both;
                with `none` nothing flows.
            selection: Keep by own attention times attention received, each the largest over heads
                (`mixed_max`), or by CLS attention, mean over heads (`cls_mean`).
            scales: Weigh keys by how much flowed into a token.
        """
        super().__init__(spec)
        for name, value, known in (
            ("graph", graph, (*KINDS, "none")),
            ("selection", selection, SELECTIONS),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(known)}")
        if not 0 < sparsity <= 1:
            raise ValueError(f"sparsity is {sparsity:g}, but must be in (0, 1]")
        if k < 1:
            raise ValueError(f"k is {k}, but must be at least 1")
        if selection == "cls_mean" and not spec.has_cls:
            raise ValueError("selection is 'cls_mean', but must be 'mixed_max' without a CLS token")
        self.sparsity, self.alpha, self.k = sparsity, alpha, k
        self.graph, self.selection, self.scales = graph, selection, scales

    def begin(self, tokens: Tokens) -> Plan:
        """Make the graph."""
        if self.graph == "none":
            return NOTHING
        edges, factors = patch_graph(self.graph, tokens.patches, tokens.grid, self.k)
        return Plan(carried={"edges": edges, "factors": factors})

    def filter_attention(self, probabilities: Tensor) -> Tensor:
        """Drop the smallest probabilities of each head's map."""
        dropped = int(probabilities.shape[-2:].numel() * (1 - self.sparsity))
        if dropped == 0:
            return probabilities
        map_values = probabilities.detach()
        least = nth_smallest(map_values.flatten(2), dropped)
        # Compared in place, hence in floats: to multiply by bool takes five times as long.
        return probabilities * map_values.clone().ge_(least[..., None, None])

    def after_attention(self, tokens: Tokens, attention: AttentionView) -> Plan:
        """Keep the target count of tokens; let the others flow to those kept."""
        order = largest(self._scores(attention), tokens.count)
        left = self.spec.target(tokens.num_patches)
        kept, gone = order.tensor_split([left], dim=1)
        if self.graph == "none":
            return Keep(index=kept)
        edges = gather_tokens(gather_tokens(tokens.carried["edges"], kept).mT, order).mT
        factors = tokens.carried["factors"].gather(1, order)
        flow = self.alpha * (factors[:, :left, None] * edges[:, :, left:] * factors[:, None, left:])
        patches = tokens.patches
        return Keep(
            index=kept,
            features=gather_tokens(patches, kept) + flow.to(patches) @ gather_tokens(patches, gone),
            sizes=self._scales(tokens, flow, kept, gone) if self.scales else None,
            proportional=self.scales,
            carried={"edges": edges[:, :, :left], "factors": factors[:, :left]},
        )

    def _scales(self, tokens: Tokens, flow: Tensor, kept: Tensor, gone: Tensor) -> Tensor:
        scales = tokens.sizes
        if scales is None:
            scales = flow.new_ones(flow.shape[0], tokens.count)
        return scales.gather(1, kept) + (flow @ scales.gather(1, gone)[..., None])[..., 0]

    @torch.no_grad()
    def _scores(self, attention: AttentionView) -> Tensor:
        if self.selection == "cls_mean":
            return attention.scores("cls")
        own, received = attention.peaks
        return own * received

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the graph, of the CLS row where it counts, and of the flow."""
        graph: Count = 0
        if self.spec.index == 0 and self.graph in ("mixed", "semantic"):
            graph = self.spec.num_patches**2 * self.spec.dim
        macs: Count = 0
        if self.selection == "cls_mean":
            macs = macs + (incoming + self.spec.num_prefix) * attention_dim(attention_of(block))
        if self.graph != "none":
            macs = macs + left * (incoming - left) * (self.spec.dim + self.scales)
        return graph + (left < incoming) * macs


def nth_smallest(x: Tensor, n: int) -> Tensor:
    """Return the n-th smallest value, from 1, of each row of x [..., M], [...]."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if x.device.type == "cpu" and not traced:  # NumPy takes less than half of the time.
        return torch.from_dlpack(np.partition(np.from_dlpack(x), n - 1)[..., n - 1].copy())
    return x.topk(n, dim=-1, largest=False, sorted=False).values.amax(dim=-1)
