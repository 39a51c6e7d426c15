"""Make the weights of the embedded host of digit scenes, from those of the host of digits.

    OMP_NUM_THREADS=1 python experiments/pretrain_scenes.py

trains every host at the same time, one process and one thread each: about 8 and 15
minutes of CPU time. Writes the weights, as float16, and a record of how they were made into
`trainables/hosts/`.
No scene is shown twice, and all are drawn from the training split's digits and halves of the
photographs. The last weights are taken, not the best ones; those on the way are written, too.

A host starts as the host of digits of its capacity whose patches have been stretched to 8 pixels:
from random weights, nothing is learnt for a long time. Pieces of digits and the photograph fade in
over the first part of the training. A second head, which is thrown away, tells from each patch's
token which digit the patch shows, if any.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from experiments.pretrain_demo import LABEL_SMOOTHING, minimise, top1, write_host
from trainables.data.base import Split
from trainables.data.digits_scenes import SIDE, SceneMaterial, open_dataset, scene_materials
from trainables.models.host import build_host
from trainables.models.host_source import WEIGHTS_FOLDER

STARTS = {
    "scenes_tiny_patch8_64": "digits_tiny_patch4_32",
    "scenes_small_patch8_64": "digits_small_patch4_32",
}
"""Host -> the host whose weights it starts from."""
SCENES = 200_000
BATCH_SIZE = 32
FADE_IN = 0.4
"""Share of the training in which pieces and photograph fade in."""
PATCH_LOSS = 0.5
"""Weight of the patches' loss."""
SHOWN = 0.08
"""Mean opacity, of 1, from which on a patch shows the digit."""
CLASSES = 10
REPORT_EVERY = 200
"""Steps."""


def main() -> None:
    """Train every host in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--hosts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--folder", type=Path, default=WEIGHTS_FOLDER)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    runs = [(name, options.seed, options.scenes, options.folder) for name in options.hosts]
    with multiprocessing.get_context("spawn").Pool(len(runs)) as pool:
        pool.starmap(make_host, runs, chunksize=1)


def make_host(name: str, seed: int, scenes: int, folder: Path) -> None:
    """Train one host and write `NAME.safetensors` and `NAME.json` into a folder."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    vit = build_host(STARTS[name], num_classes=CLASSES, dataset="digits", image_size=32)
    vit = stretched(name, vit.state_dict())
    record: dict[str, object] = {
        "dataset": "digits_scenes",
        "command": f"python experiments/pretrain_scenes.py --seed {seed} --scenes {scenes}",
        "train_images": scenes,
    }
    train(vit, seed, scenes, lambda: write_host(folder / name, halved(vit), record))
    vit.load_state_dict(halved(vit))
    val = evaluation_scenes()
    accuracy = top1(vit, *as_tensors(val))
    record["accuracy"] = {"val_top1": round(accuracy, 2), "val_images": len(val)}
    write_host(folder / name, halved(vit), record)
    print(f"{name}: {accuracy:.2f} % of the validation split", flush=True)


def evaluation_scenes() -> Split:
    """Return the scenes that the finished host is tested on."""
    return open_dataset().val


def stretched(name: str, state: dict[str, Tensor]) -> VisionTransformer:
    """Return a host with the weights of one whose patches are half as wide."""
    vit = build_host(name, num_classes=CLASSES, pretrained=False, image_size=SIDE)
    kernel = state["patch_embed.proj.weight"].repeat_interleave(2, 2).repeat_interleave(2, 3)
    vit.load_state_dict(state | {"patch_embed.proj.weight": kernel / 4})
    return vit


def train(vit: VisionTransformer, seed: int, scenes: int, write: Callable[[], None]) -> None:
    """Train in place; reports the share of right answers and calls `write` now and then."""
    material, _ = scene_materials()
    random = np.random.default_rng([seed, 1])
    patch_head = nn.Linear(vit.embed_dim, CLASSES + 1)
    steps, start, right = scenes // BATCH_SIZE, time.monotonic(), 0
    vit.train()

    def loss(step: int) -> Tensor:
        nonlocal right
        clutter = min(1.0, step / (FADE_IN * steps))
        shown, target, of_patch = draw_batch(material, random, clutter)
        tokens = vit.forward_features(shown)
        logits = vit.forward_head(tokens)
        right += int((logits.argmax(dim=1) == target).sum())
        if (step + 1) % REPORT_EVERY == 0:
            share = 100 * right / (REPORT_EVERY * BATCH_SIZE)
            seconds = time.monotonic() - start
            print(f"{step + 1} of {steps} steps: {share:.1f} % right, {seconds:.0f} s", flush=True)
            right = 0
            write()
        patches = patch_head(tokens[:, vit.num_prefix_tokens :]).flatten(0, 1)
        return functional.cross_entropy(
            logits, target, label_smoothing=LABEL_SMOOTHING
        ) + PATCH_LOSS * functional.cross_entropy(patches, of_patch.flatten())

    minimise(loss, [*vit.parameters(), *patch_head.parameters()], steps)


def draw_batch(
    material: SceneMaterial, random: np.random.Generator, clutter: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scenes [B, 3, 64, 64], their classes [B] and each patch's [B, 64], 10 for none."""
    digits = random.integers(len(material.classes), size=BATCH_SIZE)
    drawn = [material.draw(digit, random, clutter) for digit in digits]
    target = torch.from_numpy(material.classes[digits])
    cover = torch.from_numpy(np.stack([scene.cover for scene in drawn])).float() / 255
    shows = functional.avg_pool2d(cover, 8).flatten(1) > SHOWN
    of_patch = torch.where(shows, target[:, None], CLASSES)
    return normalised(np.stack([scene.pixels for scene in drawn])), target, of_patch


def normalised(pixels: np.ndarray) -> Tensor:
    """Turn uint8 [N, H, W, 3] into float32 [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def as_tensors(split: Split) -> tuple[Tensor, Tensor]:
    """Return a whole split as normalised images float32 [N, 3, 64, 64] and targets int64 [N]."""
    images = np.stack([np.asarray(split.image(index)) for index in range(len(split))])
    return normalised(images), torch.tensor([split.target(index) for index in range(len(split))])


def halved(vit: nn.Module) -> dict[str, Tensor]:
    """Return the weights as float16."""
    return {name: value.half() for name, value in vit.state_dict().items()}


if __name__ == "__main__":
    main()
