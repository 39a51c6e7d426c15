"""How far finetuning takes a model from where it started, and whether that is too far."""

import math

import torch
from torch import Tensor, nn

from trainables.loop.adapters import plain
from trainables.loop.optimizer import EMBEDDINGS, HEAD
from trainables.recipe import Recipe

TOO_FAR = 0.5
"""Share of its norm by which a pretrained part should not move in one epoch."""
TOO_HIGH = 1.5
"""Times the loss of guessing, above which a loss at the start is worth a note."""


class Movement:
    """Compares a model's weights with those it started from, of which it keeps a copy.

    Args:
        model: As it is before training.
    """

    def __init__(self, model: nn.Module) -> None:
        self._start = {name: p.detach().cpu().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def of(self, model: nn.Module) -> dict[str, float]:
        """Return by how much of its norm each part has moved, 0 for not at all.

        Args:
            model: The same model, later; adapters count as merged.

        Returns:
            `embeddings`, `backbone`, `head` and, where it has parameters, `method`; without parts
            that started at zero.
        """
        moved: dict[str, float] = {}
        norms: dict[str, float] = {}
        with plain([model]):
            for name, parameter in model.named_parameters():
                part, start = part_of(name), self._start[name]
                moved[part] = moved.get(part, 0.0) + _square(parameter.detach().cpu() - start)
                norms[part] = norms.get(part, 0.0) + _square(start)
        return {part: math.sqrt(moved[part] / norms[part]) for part in moved if norms[part]}


def part_of(name: str) -> str:
    """Return the part of a reduced model that a parameter belongs to."""
    prefixes = {HEAD: "head", "stages.": "method"} | dict.fromkeys(EMBEDDINGS, "embeddings")
    return next((part for prefix, part in prefixes.items() if name.startswith(prefix)), "backbone")


def note_on_movement(moved: dict[str, float], recipe: Recipe) -> str | None:
    """Return a line where the first epoch moved a pretrained part too far, None elsewhere."""
    far = {part: moved[part] for part in ("embeddings", "backbone") if part in moved}
    if not recipe.pretrained or not far or max(far.values()) <= TOO_FAR:
        return None
    part = max(far, key=lambda name: far[name])
    mend = "lower `lr` or `backbone_lr_scale`, or set `layer_decay`"
    if part == "embeddings" and not recipe.embeddings_follow_backbone:
        mend = "set `embeddings: backbone`, with a `backbone_lr_scale` below 1"
    return (
        f"the first epoch moved the pretrained {part} by {far[part]:.0%} of their norm, which "
        f"forgets what they had learnt: {mend}"
    )


def note_on_start(loss: float, classes: int) -> str | None:
    """Return a line where a first loss is far above that of guessing among classes, else None."""
    guessing = math.log(classes) if classes > 1 else math.inf
    if loss <= TOO_HIGH * guessing:
        return None
    return (
        f"the loss starts at {loss:.2f}, but guessing among {classes} classes gives "
        f"{guessing:.2f}: check that the labels are those of the head"
    )


def _square(x: Tensor) -> float:
    return x.double().square().sum().item()
