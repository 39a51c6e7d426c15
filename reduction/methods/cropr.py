"""Cropr: drop the tokens that a learned query finds least useful for the task."""

from dataclasses import replace
from typing import Any

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from reduction.plan import Append, Keep, Plan
from reduction.schedule import Schedule
from reduction.stage import Count, HostBlock, Stage, StageSpec
from reduction.tokens import Tokens, at_least_float32, gather_tokens, largest, without_autocast
from reduction.trace import Learning


class Cropr(Stage):
    """Keeps the tokens with the largest products with learned queries, in descending order.

    In training the queries also classify, by an average of all tokens that has no gradient; the
    trace's `learning` has their logits. With last-layer fusion, all that was dropped comes back, in
    the order of dropping, for the host's last block.
    """

    family = "pruning"
    citation = "Bergner et al., Token Cropr: Faster ViTs for Quite a Few Tasks, CVPR 2025"
    patterns = ("kept",)
    hands_to_loss = True

    def __init__(self, spec: StageSpec, *, queries: int = 1, llf: bool = False) -> None:
        """Set up the stage.

        Args:
            spec: Where the stage sits.
            queries: Queries whose products with a token add up.
            llf: Last-layer fusion.
        """
        super().__init__(spec)
        if queries < 1:
            raise ValueError(f"queries is {queries}, but must be at least 1")
        self.llf = llf
        if self.fuses:
            return
        self.query = nn.Parameter(torch.empty(queries, spec.dim))
        nn.init.trunc_normal_(self.query, std=spec.dim**-0.5)
        if spec.num_classes:
            self.auxiliary = AuxiliaryHead(spec.dim, spec.num_classes)

    @classmethod
    def schedule(cls, asked: Schedule, depth: int, **options: Any) -> Schedule:
        """Return the schedule asked for, and with last-layer fusion a stage at the last block."""
        if not options.get("llf"):
            return asked
        if asked.blocks[-1] == depth - 1:
            raise ValueError(
                f"reduction_loc has block {depth - 1}, but must end before the last block with llf"
            )
        return replace(
            asked,
            blocks=(*asked.blocks, depth - 1),
            fractions=(*asked.fractions, *asked.fractions[-1:]),
            tokens=(*asked.tokens, *asked.tokens[-1:]),
            removals=(*asked.removals, 0) if asked.removals else (),
        )

    @property
    def fuses(self) -> bool:
        """Whether this is the stage that brings dropped tokens back."""
        return self.llf and self.spec.block == self.spec.depth - 1

    def before_block(self, tokens: Tokens) -> Plan:
        """Keep the target count of tokens; or bring all others back."""
        if self.fuses:
            carried = tokens.carried
            return Append(
                features=carried["dropped"],
                origin=carried["dropped_origin"],
                coordinates=carried.get("dropped_places"),
            )
        order = largest(self.scores(at_least_float32(tokens.patches)), tokens.count)
        kept, gone = order.tensor_split([self.spec.target(tokens.num_patches)], dim=1)
        return Keep(
            index=kept,
            carried=_set_aside(tokens, kept, gone) if self.llf else None,
            learning=self._classify(tokens) if self.training and tokens.recorder else None,
        )

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """Return the sum [B, N] of each token's products with the queries."""
        with without_autocast(x):
            return (x @ self.query.to(x).mT).sum(dim=-1)

    def _classify(self, tokens: Tokens) -> Learning | None:
        if not self.spec.num_classes:
            return None
        return Learning(auxiliary_logits=self.auxiliary(tokens.x.detach(), self.query))

    def acts(self, tokens: Tokens) -> bool:
        """Return whether there is anything to drop or to bring back."""
        return bool(tokens.carried) if self.fuses else super().acts(tokens)

    def count(self, incoming: int) -> int:
        """Return the tokens left, or all where they come back."""
        return self.spec.num_patches if self.fuses else super().count(incoming)

    def no_weight_decay(self) -> set[str]:
        """Name the query."""
        return set() if self.fuses else {"query"}

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the products."""
        return 0 if self.fuses else self.acts_on(incoming) * incoming * self.query.numel()


class AuxiliaryHead(nn.Module):
    """Classifies an average of tokens by the attention of a query; of no use after training."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.in_norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.out_norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor, query: Tensor) -> Tensor:
        """Return logits [B, classes] of tokens x [B, T, C], the mean over queries [Q, C]."""
        attention = (query @ x.mT / x.shape[-1] ** 0.5).softmax(dim=-1)
        average = attention @ x
        average = average + self.mlp(self.in_norm(average))
        return self.head(self.out_norm(average)).mean(dim=1)


def _set_aside(tokens: Tokens, kept: Tensor, gone: Tensor) -> dict[str, Tensor]:
    """Return what last-layer fusion needs: all tokens dropped so far, and who all of them were."""
    carried = dict(tokens.carried)
    origin = carried.get("origin")
    if origin is None:
        origin = torch.arange(tokens.count, device=kept.device).expand(kept.shape[0], -1)
    new = {
        "dropped": gather_tokens(tokens.patches, gone),
        "dropped_origin": origin.gather(1, gone),
    }
    if tokens.coordinates is not None:
        new["dropped_places"] = gather_tokens(tokens.coordinates, gone)
    both = {
        name: torch.cat((carried[name], x), dim=1) if name in carried else x
        for name, x in new.items()
    }
    return {**both, "origin": origin.gather(1, kept)}
