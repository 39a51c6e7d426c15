"""What arrives as pixels is what images were normalised and erased one by one, to the bit."""

import random

import pytest
import torch
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import functional

from trainables.data.erasing import Erasing
from trainables.data.normalisation import Normalisation

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def seed(number):
    random.seed(number)
    torch.manual_seed(number)


@pytest.fixture
def pixels():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (40, 3, 18, 24), dtype=torch.uint8, generator=generator)


def one_by_one(pixels, probability):
    """Normalise and erase each image by itself, as torchvision and timm do."""
    erase = RandomErasing(probability, mode="pixel", device="cpu")
    images = []
    for number, image in enumerate(pixels):
        seed(number)
        scaled = functional.to_tensor(image.permute(1, 2, 0).numpy())
        images.append(erase(functional.normalize(scaled, MEAN, STD)))
    return torch.stack(images)


def drawn(pixels, probability):
    """Return what is erased of each image."""
    erasing = Erasing(probability)
    found = []
    for number in range(len(pixels)):
        seed(number)
        found.append(erasing(*pixels.shape[2:]))
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_a_batch_is_what_its_images_are_one_by_one(pixels, device, probability):
    boxes, noise = zip(*drawn(pixels, probability), strict=True)
    targets = torch.arange(40)
    batch = [pixels, targets, targets + 1, torch.stack(boxes), torch.cat(noise)]
    normalise = Normalisation(MEAN, STD)
    images, ours, index = normalise([tensor.to(device) for tensor in batch])
    assert torch.equal(images.cpu(), one_by_one(pixels, probability))
    assert torch.equal(ours.cpu(), targets)
    assert torch.equal(index.cpu(), targets + 1)


@pytest.mark.parametrize("device", DEVICES)
def test_without_erasing_there_are_three_tensors(pixels, device):
    batch = [tensor.to(device) for tensor in (pixels, torch.arange(40), torch.arange(40))]
    for _ in range(2):
        images, _, _ = Normalisation(MEAN, STD)(batch)
        assert torch.equal(images.cpu(), one_by_one(pixels, 0.0))


def test_the_pixels_given_are_left_as_they_were(pixels):
    before = pixels.clone()
    boxes, noise = zip(*drawn(pixels, 1.0), strict=True)
    Normalisation(MEAN, STD)([pixels, boxes, boxes, torch.stack(boxes), torch.cat(noise)])
    assert torch.equal(pixels, before)


def test_rectangles_are_as_large_as_the_paper_s_and_filled_with_normal_noise(pixels):
    found = drawn(pixels, 1.0)
    for (top, left, bottom, right), noise in found:
        assert 0 <= top < bottom <= 18
        assert 0 <= left < right <= 24
        assert len(noise) == 3 * (bottom - top) * (right - left)
        assert 0.01 < len(noise) / pixels[0].numel() < 0.4
    noise = torch.cat([values for _, values in found])
    assert noise.mean() == pytest.approx(0, abs=0.05)
    assert noise.std() == pytest.approx(1, abs=0.05)
