"""Measure how fast images are decoded and augmented, from files and from the image cache.

    python experiments/benchmarks/input.py --processes 2

The images are cut from two photographs that scikit-learn ships, at the size of ImageNet's. No
model runs. Files and cache take turns, so that what else the machine does meets both alike:

- augmentation: none (images are only read), or that of the default recipe for a single label or
  for several labels;
- processes: 0 reads and augments in this process, timed by `--clock`: `cpu` is the time of one
  core whatever else runs. Others are the loader's own processes, timed by the clock on the wall
  between their first batch and their last;
- first batch: seconds until it is there, the start of the processes included;
- speed-up: median over the repeats of (time from files / time from the cache).

Writes `input.json` and `input.md` into the output folder and prints the table.
"""

import argparse
import itertools
import operator
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms.functional import pil_to_tensor

from experiments.benchmarks.results import CLOCKS, environment, line, option_parser, write
from trainables.data.base import Split, Task
from trainables.data.cache import CachedSplit
from trainables.data.cache_file import FOLDER_VARIABLE
from trainables.data.image_files import FileSplit
from trainables.data.loader import train_loader
from trainables.data.transforms import Transform, erasing, train_transform
from trainables.recipe import Recipe

AUGMENTATIONS: dict[str, Task | None] = {
    "none": None,
    "single label": "single_label",
    "several labels": "multi_label",
}
GREY = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class InputRow:
    """One way to read and augment images."""

    augmentation: str
    images: str
    """Where they come from: `files` or `cache`."""
    processes: int
    first_batch: float
    images_per_second: float
    speed_up: float
    """Over files with the same augmentation and processes."""


Times = tuple[float, float]
"""Seconds until the first batch and, on average, from each image after it to the next."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = parse(arguments)
    torch.set_num_threads(1)
    rows: list[InputRow] = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        mock.patch.dict(os.environ, {FOLDER_VARIABLE: f"{scratch}/cache"}),
    ):
        files = photographs(Path(scratch), options)
        cache = CachedSplit(files, "benchmark", options.cache)
        *_, built = cache.prepare()
        print(built, line(InputRow.__annotations__), sep="\n", flush=True)
        for name, processes in itertools.product(AUGMENTATIONS, (0, *options.processes)):
            for row in measure({"files": files, "cache": cache}, name, processes, options):
                rows.append(row)
                print(line(asdict(row).values()), flush=True)
        size = statistics.mean(path.stat().st_size for path in Path(scratch).glob("*.jpg"))
    write(
        options.out, "input", [asdict(row) for row in rows], environment(options) | {"bytes": size}
    )
    print(f"{size / 1000:.0f} kB an image; wrote input.json and input.md into {options.out}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = option_parser(
        __doc__,
        images=256,
        size=[500, 375],
        quality=95,
        cache=256,
        image_size=224,
        batch_size=16,
        repeats=5,
        clock="cpu",
    )
    add = parser.add_argument
    add("--processes", type=int, nargs="*", default=[], help="numbers of loader processes, too")
    return parser.parse_args(arguments)


def photographs(folder: Path, options: argparse.Namespace) -> FileSplit:
    """Write JPEG files, each cut from a photograph at a place of its own."""
    sources = [Image.fromarray(load_sample_image(file)) for file in ("china.jpg", "flower.jpg")]
    rng = np.random.default_rng(0)
    names = [f"{number}.jpg" for number in range(options.images)]
    for number, name in enumerate(names):
        source = sources[number % 2]
        left, top, right, bottom = rng.integers(40, size=4).tolist()
        box = (left, top, source.width - right, source.height - bottom)
        image = source.resize(tuple(options.size), Image.Resampling.BICUBIC, box)
        image.save(folder / name, quality=options.quality)
    return FileSplit.of(folder, names, np.zeros(len(names), dtype=np.int64))


def measure(
    sources: dict[str, Split], augmentation: str, processes: int, options: argparse.Namespace
) -> list[InputRow]:
    """Measure files and cache by turns."""
    task = AUGMENTATIONS[augmentation]
    recipe = Recipe(image_size=options.image_size)
    transform = train_transform(recipe, task, GREY) if task else corner(options.image_size)
    clock = time.perf_counter if processes else CLOCKS[options.clock]
    found: dict[str, list[Times]] = {name: [] for name in sources}
    for epoch in range(options.repeats):
        for name, split in sources.items():
            loader = train_loader(
                split,
                transform,
                erasing=erasing(recipe, task) if task else None,
                batch_size=options.batch_size,
                seed=0,
                epoch=epoch,
                num_workers=processes,
            )
            found[name].append(timed(loader, options.batch_size, clock))
    each = {name: [seconds for _, seconds in times] for name, times in found.items()}
    return [
        InputRow(
            augmentation=augmentation,
            images=name,
            processes=processes,
            first_batch=statistics.median(first for first, _ in found[name]),
            images_per_second=1 / statistics.median(each[name]),
            speed_up=statistics.median(map(operator.truediv, each["files"], each[name])),
        )
        for name in sources
    ]


def timed(
    loader: torch.utils.data.DataLoader, batch_size: int, clock: Callable[[], float]
) -> Times:
    """Go through an epoch; return how long that took."""
    start = clock()
    batches = iter(loader)
    next(batches)
    first = clock()
    count = sum(1 for _ in batches)
    return first - start, (clock() - first) / (count * batch_size)


def corner(side: int) -> Transform:
    """Return the least that makes a batch of images: crop a square of `side` pixels."""
    return lambda image: pil_to_tensor(image.crop((0, 0, side, side)))


if __name__ == "__main__":
    main()
