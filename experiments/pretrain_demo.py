"""Make the weights of the embedded hosts of digits: supervised training on the digits.

    OMP_NUM_THREADS=1 python experiments/pretrain_demo.py

trains all hosts at the same time, one process and one thread each: about ten minutes on two CPU
cores. Writes the weights and a record of how they were made into `trainables/hosts/`. The same
seed and the same versions give the same weights; the validation split is never trained on, and
the last weights are taken, not the best ones.

Half of the images shown are digits that vary in size, place and angle, and half are mosaics of one
to four small ones, whose target is spread evenly over them: the hosts are finetuned on both.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import platform
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from trainables.data import open_dataset
from trainables.data.base import Split
from trainables.data.normalisation import Normalisation
from trainables.data.transforms import eval_transform
from trainables.models.host import build_host, host_mean_std
from trainables.models.host_source import WEIGHTS_FOLDER
from trainables.recipe import Recipe

DATASET = "digits"
HOSTS = ("digits_tiny_patch4_32", "digits_small_patch4_32")
EPOCHS = 100
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
WARMUP_SHARE = 0.08
LABEL_SMOOTHING = 0.05
CLIP_GRAD = 1.0
ZOOM_OUT = 1.4
"""Most by which a digit is shrunk."""
TILES = 4
"""Tiles of a mosaic, 2 by 2."""
BLACK = -1.0
"""The background, normalised."""


def main() -> None:
    """Train every demo host in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--folder", type=Path, default=WEIGHTS_FOLDER)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    runs = [(name, options.seed, options.epochs, options.folder) for name in HOSTS]
    with multiprocessing.get_context("spawn").Pool(len(runs)) as pool:
        pool.starmap(make_host, runs)


def make_host(name: str, seed: int, epochs: int, folder: Path) -> None:
    """Train one host and write `NAME.safetensors` and `NAME.json` into a folder."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    dataset = open_dataset(DATASET)
    images, targets = as_tensors(name, dataset.train)
    vit = build_host(name, num_classes=10, pretrained=False, image_size=images.shape[-1])
    widen_initialisation(vit)
    train(vit, images, targets, epochs)
    accuracy = top1(vit, *as_tensors(name, dataset.val))
    record = {
        "dataset": DATASET,
        "accuracy": {"val_top1": round(accuracy, 2), "val_images": len(dataset.val)},
        "command": f"python experiments/pretrain_demo.py --seed {seed} --epochs {epochs}",
        "train_images": len(dataset.train),
    }
    write_host(folder / name, vit.state_dict(), record)
    print(f"{name}: {accuracy:.2f} % of the validation split")


def write_host(path: Path, state: dict[str, Tensor], record: dict[str, object]) -> None:
    """Write `PATH.safetensors` and `PATH.json`, the record with versions and digest."""
    weights = save(state)
    path.with_suffix(".safetensors").write_bytes(weights)
    record = record | {"versions": versions(), "sha256": hashlib.sha256(weights).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")


def as_tensors(name: str, split: Split) -> tuple[Tensor, Tensor]:
    """Return a whole split as normalised images float32 [N, 3, 32, 32] and targets int64 [N]."""
    recipe = Recipe.model_validate({"image_size": 32, "crop_ratio": 1.0})
    transform = eval_transform(recipe, "single_label")
    pixels = torch.stack([transform(split.image(index)) for index in range(len(split))])
    targets = torch.tensor([split.target(index) for index in range(len(split))])
    images, *_ = Normalisation(*host_mean_std(name))((pixels, targets, targets))
    return images, targets


def widen_initialisation(vit: nn.Module) -> None:
    """Start from weights that suit so narrow a model: timm's scale is that of wide ones."""
    for name, parameter in vit.named_parameters():
        if name.endswith(".weight") and parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter)
        elif name in ("pos_embed", "cls_token"):
            nn.init.normal_(parameter, std=0.2)


def train(vit: nn.Module, images: Tensor, targets: Tensor, epochs: int) -> None:
    """Train in place on batches of digits and mosaics."""
    vit.train()
    classes = functional.one_hot(targets).float()

    def loss(step: int) -> Tensor:
        shown, wanted = draw_batch(images, classes)
        return functional.cross_entropy(vit(shown), wanted, label_smoothing=LABEL_SMOOTHING)

    minimise(loss, list(vit.parameters()), epochs * (len(images) // BATCH_SIZE))


def minimise(loss: Callable[[int], Tensor], parameters: list[nn.Parameter], steps: int) -> None:
    """Minimise the loss of each step with AdamW, a linear warm-up and a cosine to zero."""
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.05, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, steps))
    for step in range(steps):
        loss(step).backward()
        nn.utils.clip_grad_norm_(parameters, CLIP_GRAD)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()


def lr_factor(step: int, steps: int) -> float:
    """Return the share of the learning rate that a step uses."""
    return (
        min(1.0, (step + 1) / (WARMUP_SHARE * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )


def draw_batch(images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return half a batch of digits and half a batch of mosaics, with their class shares."""
    count = BATCH_SIZE // 2
    single = torch.randint(len(images), (count,))
    tile = torch.randint(len(images), (count, TILES))
    filled = torch.rand(count, TILES).argsort(dim=1) < torch.randint(1, TILES + 1, (count, 1))
    share = filled / filled.sum(dim=1, keepdim=True)
    mosaics = join_tiles(augment(images[tile.flatten()]), filled)
    return (
        torch.cat([augment(images[single]), mosaics]),
        torch.cat([classes[single], (classes[tile] * share[:, :, None]).sum(dim=1)]),
    )


def augment(images: Tensor) -> Tensor:
    """Turn, move and resize normalised images [B, 3, H, W]."""
    count = len(images)
    zoom = torch.empty(count).uniform_(0.85, ZOOM_OUT)
    angle = torch.empty(count).uniform_(-0.25, 0.25)
    shift = torch.empty(count, 2).uniform_(-1, 1) * ((zoom - 1).clamp(min=0) + 0.1)[:, None]
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1)
    scaled = rotation.view(count, 2, 2) * zoom[:, None, None]
    grid = functional.affine_grid(
        torch.cat([scaled, shift[:, :, None]], dim=2), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images - BLACK, grid, align_corners=False) + BLACK


def join_tiles(images: Tensor, filled: Tensor) -> Tensor:
    """Shrink images [4 B, 3, H, W] to half and join them, where `filled` [B, 4], 2 by 2."""
    tiles = functional.avg_pool2d(images, 2) - BLACK
    count, channels, height, width = tiles.shape
    grid = tiles * filled.reshape(count, 1, 1, 1)
    grid = grid.view(-1, 2, 2, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, channels, 2 * height, 2 * width) + BLACK


@torch.inference_mode()
def top1(vit: nn.Module, images: Tensor, targets: Tensor) -> float:
    """Return the share of images whose largest logit is the target's, in percent."""
    vit.eval()
    return 100 * (vit(images).argmax(dim=1) == targets).double().mean().item()


def versions() -> dict[str, object]:
    """Return the versions that the weights depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


if __name__ == "__main__":
    main()
