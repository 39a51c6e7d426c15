"""Pixels that are normalised and erased on the device against the same on a CPU."""

from collections.abc import Iterator

import torch
from torch import Tensor

from experiments.gpu_proof.findings import Finding
from experiments.gpu_proof.workplace import Workplace
from trainables.data.erasing import Erasing
from trainables.data.normalisation import Normalisation

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def prove(place: Workplace, job: str) -> Iterator[Finding]:
    """Erase of no image, of some and of all."""
    images, side = (8, 32) if place.rehearses else (256, 224)
    for probability in (0.0, 0.3, 1.0):
        batch = _batch(images, side, probability)
        expected = Normalisation(MEAN, STD)(batch)[0]
        found = Normalisation(MEAN, STD)([x.to(place.device) for x in batch])[0].cpu()
        far = (found - expected).abs().max().item()
        yield Finding(
            what=f"{images} images, erased with probability {probability}",
            passed=torch.equal(found, expected),
            found=f"pixels differ by {far:.1e}, allowed 0",
            value=far,
        )


def _batch(images: int, side: int, probability: float) -> list[Tensor]:
    torch.manual_seed(0)
    pixels = torch.randint(256, (images, 3, side, side), dtype=torch.uint8)
    erasing, targets = Erasing(probability), torch.arange(images)
    boxes, noise = zip(*(erasing(side, side) for _ in range(images)), strict=True)
    return [pixels, targets, targets, torch.stack(boxes), torch.cat(noise)]
