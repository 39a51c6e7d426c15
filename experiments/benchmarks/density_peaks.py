"""Which tokens does `dpcknn` merge first, and is it the density that decides?

    python experiments/benchmarks/density_peaks.py

A centre is a token with a large product of density and distance to a denser token. Here the tokens
of digit scenes are ranked by the product and by either factor alone, off the shelf and with equal
weights. Patches that show the digit are about a sixth of all.

Writes `density_peaks.json` and `density_peaks.md` into the output folder and prints the table.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from timm.models import VisionTransformer
from torch import Tensor
from torch.nn import functional

import reduction
from experiments.benchmarks.results import environment, line, option_parser, write
from experiments.pretrain_scenes import CLASSES, SHOWN, normalised
from reduction.methods.dpcknn import DPCKNN
from reduction.plan import Merge, Plan
from reduction.stage import StageSpec
from reduction.tokens import Tokens, distances, largest
from trainables.data.digits_scenes import SIDE, scene_splits
from trainables.models.host import build_host

HOST = "scenes_tiny_patch8_64"
BLOCK = 3
NEIGHBOURS = 5
RANKINGS = ("product", "density", "distance")
KEEP_RATES = (0.95, 0.75, 0.5, 0.25)


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What a ranking of centres does at a keep rate."""

    ranking: str
    keep_rate: float
    merged_that_show_the_digit: float
    """Share of the tokens at block 3 that are no centres, in percent."""
    top1: float
    """Of the model with three such stages, in percent."""


@dataclass(frozen=True)
class Peaks:
    """The two factors of a token's score, [B, N] each."""

    density: Tensor
    distance: Tensor

    @classmethod
    def of(cls, patches: Tensor) -> "Peaks":
        """Compute them for tokens [B, N, C] as Du et al., 2016, do."""
        between = distances(patches) / patches.shape[-1] ** 0.5
        nearest = between.sort(dim=-1).values[..., :NEIGHBOURS]
        density = (-nearest.square().mean(dim=-1)).exp()
        denser = density[:, None, :] > density[:, :, None]
        distance = between.masked_fill(~denser, torch.inf).amin(dim=-1)
        furthest = between.amax(dim=(1, 2))[:, None]
        return cls(density, torch.where(denser.any(dim=-1), distance, furthest))

    def score(self, ranking: str) -> Tensor:
        """Return what centres are ranked by."""
        scores = (self.density * self.distance, self.density, self.distance)
        return dict(zip(RANKINGS, scores, strict=True))[ranking]


class RankedPeaks(DPCKNN):
    """`dpcknn` with equal weights and another ranking of centres."""

    def __init__(self, spec: StageSpec, *, ranking: str = "product") -> None:
        """Set up the stage; `ranking` is one of `RANKINGS`."""
        super().__init__(spec, neighbours=NEIGHBOURS, equal_weight=True)
        self.ranking = ranking

    def before_block(self, tokens: Tokens) -> Plan:
        """Replace the tokens by the means of the clusters around the first in the ranking."""
        patches, target = tokens.patches, self.spec.target(tokens.num_patches)
        centres = largest(Peaks.of(patches).score(self.ranking), target)
        every = torch.arange(len(patches))[:, None]
        nearest = distances(patches)[every, centres].argmin(dim=1)
        own = torch.arange(target).expand_as(centres)
        assignment = nearest.scatter(1, centres, own)
        sizes = functional.one_hot(assignment, target).sum(dim=1)
        shares = 1 / sizes.gather(1, assignment)
        return Merge(
            assignment=assignment, count=target, shares=shares, centres=centres, sized=False
        )


@dataclass(frozen=True)
class Scenes:
    """Evaluation scenes, with what their patches show."""

    images: Tensor
    targets: Tensor
    show_digit: Tensor
    """bool [scenes, patches]."""

    @classmethod
    def draw(cls, count: int) -> "Scenes":
        """Draw the first evaluation scenes."""
        _, val = scene_splits()
        drawn = [val.scene(index) for index in range(count)]
        cover = torch.from_numpy(np.stack([scene.cover for scene in drawn])).float() / 255
        return cls(
            normalised(np.stack([scene.pixels for scene in drawn])),
            torch.from_numpy(val.targets[:count]),
            functional.avg_pool2d(cover, 8).flatten(1) > SHOWN,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = parse(arguments)
    vit = build_host(HOST, num_classes=CLASSES, dataset="digits_scenes", image_size=SIDE).eval()
    scenes = Scenes.draw(options.images)
    peaks = Peaks.of(tokens_before(vit, scenes.images))
    for name, factor in (("density", peaks.density), ("distance", peaks.distance)):
        digit, other = (factor[shown].median() for shown in (scenes.show_digit, ~scenes.show_digit))
        print(f"median {name}: {digit:.2f} where the digit is, {other:.2f} elsewhere")
    rows = []
    print(line(Ranked.__annotations__), flush=True)
    for ranked in rankings(vit, scenes, peaks):
        rows.append(asdict(ranked))
        print(line(rows[-1].values()), flush=True)
    write(options.out, "density_peaks", rows, environment(options))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    return option_parser(__doc__, images=2520).parse_args(arguments)


@torch.inference_mode()
def tokens_before(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Return the patch tokens [B, N, C] that block `BLOCK` gets."""
    tokens = vit.forward_intermediates(
        images, indices=[BLOCK - 1], intermediates_only=True, output_fmt="NLC", norm=False
    )
    return tokens[0]


def rankings(vit: VisionTransformer, scenes: Scenes, peaks: Peaks) -> Iterator[Ranked]:
    """Yield every ranking at every keep rate."""
    for keep_rate in KEEP_RATES:
        for ranking in RANKINGS:
            order = peaks.score(ranking).argsort(dim=1, descending=True)
            merged = order[:, round(keep_rate * order.shape[1]) :]
            model = reduction.reduce(vit, RankedPeaks, keep_rate=keep_rate, ranking=ranking)
            yield Ranked(
                ranking=ranking,
                keep_rate=keep_rate,
                merged_that_show_the_digit=percent(scenes.show_digit.gather(1, merged)),
                top1=percent(answers(model.eval(), scenes.images) == scenes.targets),
            )


@torch.inference_mode()
def answers(model: torch.nn.Module, images: Tensor) -> Tensor:
    """Return the likeliest class of each image."""
    return torch.cat([model(part).argmax(dim=1) for part in images.split(120)])


def percent(values: Tensor) -> float:
    """Return the share of true values, in percent."""
    return round(100 * values.double().mean().item(), 1)


if __name__ == "__main__":
    main()
