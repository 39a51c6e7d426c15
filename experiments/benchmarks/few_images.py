"""Compare the shipped recipes on few images of another task than the host was trained for.

    python experiments/benchmarks/few_images.py --images 364 --seeds 0 1 2

The task is to read digits that lie on their side, from as many training images as are asked for;
all 360 evaluation digits count. The demo's host has learnt to read them upright. Recipes are as
shipped but for host, image size and mirroring, which digits do not bear.

Writes `few_images.json` and `few_images.md` into the output folder and prints the table.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from experiments.benchmarks.results import environment, line, option_parser, write
from orchestrator.study.shipped_recipes import OVERRIDDEN_BY, shipped_recipes
from trainables.cell.cell import Cell
from trainables.data import open_dataset
from trainables.data.base import Split
from trainables.loop.opening import open_finetuning
from trainables.recipe import Recipe

DIGITS = {
    "host": "digits_{capacity}_patch4_32",
    "image_size": 32,
    "crop_ratio": 1.0,
    "horizontal_flip": 0.0,
}
COLUMNS = ("method", "recipe", "top1", "lowest", "highest")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what the command line asks for."""
    options = parse(arguments)
    rows = []
    print(line(COLUMNS), flush=True)
    with TemporaryDirectory() as folder:
        make_images(Path(folder), options.images)
        for method in options.methods:
            for recipe in options.recipes:
                rows.append(accuracy(method, recipe, Path(folder), options))
                print(line(rows[-1].values()), flush=True)
    write(options.out, "few_images", rows, environment(options))
    print(f"wrote few_images.json and few_images.md into {options.out}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = option_parser(__doc__, images=364, threads=1)
    add = parser.add_argument
    add("--methods", nargs="+", default=["deit", "topk"], help="at keep rate 0.5")
    add("--recipes", nargs="+", default=list(shipped_recipes()))
    add("--seeds", nargs="+", type=int, default=[0])
    add("--epochs", type=int, help="None is the recipe's own number")
    return parser.parse_args(arguments)


def make_images(folder: Path, images: int) -> None:
    """Write the digits, turned by a quarter, as a dataset of the kind `folder`."""
    digits = open_dataset("digits")
    for name, split, count in (
        ("train", digits.train, images),
        ("val", digits.val, len(digits.val)),
    ):
        for index in range(count):
            _write(folder / name, split, index)


def _write(folder: Path, split: Split, index: int) -> None:
    path = folder / str(split.target(index)) / f"{index}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    split.image(index).transpose(Image.Transpose.ROTATE_90).save(path)


def accuracy(
    method: str, recipe: str, folder: Path, options: argparse.Namespace
) -> dict[str, str | float]:
    """Return the accuracy after the last epoch, in percent, over the seeds."""
    shipped = {k: v for k, v in shipped_recipes()[recipe].items() if k not in OVERRIDDEN_BY}
    length = {} if options.epochs is None else {"epochs": options.epochs, "warmup_epochs": 0}
    found = []
    for seed in options.seeds:
        cell = Cell(
            dataset="folder",
            method=method,
            capacity="tiny",
            keep_rate=1.0 if method == "deit" else 0.5,
            reduction_loc=(3, 6, 9),
            seed=seed,
            recipe=Recipe(**(shipped | DIGITS | length)),
        )
        training = open_finetuning(
            cell, data_root=folder, device=torch.device("cpu"), threads=options.threads
        )
        while not training.finished:
            training.run(lambda: False)
        found.append(training.accuracy or 0.0)
    values = (method, recipe, mean(found), min(found), max(found))
    return dict(zip(COLUMNS, values, strict=True))


if __name__ == "__main__":
    main()
