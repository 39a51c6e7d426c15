"""Random: keep tokens by chance, the control for every method that chooses."""

import torch
from torch import Tensor

from reduction.plan import Keep, Plan
from reduction.randomness import scramble_all
from reduction.stage import Stage, StageSpec
from reduction.tokens import Tokens, largest


class Random(Stage):
    """Keeps tokens drawn uniformly without replacement, in their order.

    In evaluation the draw is a function of the image's index and the seed alone.
    """

    family = "control"
    citation = "this project's control"
    patterns = ("kept",)

    def __init__(self, spec: StageSpec, *, seed: int = 0) -> None:
        """Set up the stage; `seed` chooses among the draws in evaluation."""
        super().__init__(spec)
        self.seed = seed

    def before_block(self, tokens: Tokens) -> Plan:
        """Keep the target count of tokens."""
        index = largest(self._scores(tokens), self.spec.target(tokens.num_patches))
        return Keep(index=index.sort(dim=1).values)

    def _scores(self, tokens: Tokens) -> Tensor:
        """Random numbers [B, N]."""
        device = tokens.x.device
        if self.training:
            return torch.rand(tokens.x.shape[0], tokens.count, device=device)
        image = tokens.image_index
        if image is None:
            image = torch.arange(tokens.x.shape[0], device=device)
        position = torch.arange(tokens.count, device=device)
        return scramble_all(self.seed, self.spec.index, image.to(device)[:, None], position)
