"""`tokensweep init`: from a folder of images to a study file, and what running it would take."""

import json
import re
import shlex
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import torch
from PIL import Image
from rich.console import Console

from orchestrator.commands.check_data import check_data
from orchestrator.commands.duplicates import find_duplicates, in_words
from orchestrator.commands.listing import hours_in_words
from orchestrator.console import line, work_shown
from orchestrator.errors import UserError
from orchestrator.study.expansion import expand
from orchestrator.study.host_check import check_hosts
from orchestrator.study.names import study_folder
from orchestrator.study.preflight import forecast
from orchestrator.study.study import load_study
from trainables.data import open_dataset
from trainables.data.image_files import FileSplit
from trainables.data.indexed import Index
from trainables.recipe import Recipe
from trainables.storage.files import write_atomic

SIZES_READ = 1000
"""Images whose sizes are read, evenly spread."""
LARGE = 512
"""Shorter side in pixels from which decoding takes longer than a cache of smaller images."""
FEW, MANY = 500, 50_000
"""Training images below which only the head is trained, and above which as on ImageNet."""
FEWEST_HELD_OUT = 20
"""Training images that can pick an epoch; a holdout takes one of 20."""
LOADERS = 4

STUDY = """\
# A study of the images in {folder}
# ({train} to train on, {val} to evaluate on, {classes} classes), written by `tokensweep init`.
# docs/study-files.md has every key, docs/choosing.md says which method is for what.
name: {name}
defaults:
  dataset: [{dataset}]
  # Of the host: what is put in for {{capacity}} below.
  capacity: [{capacity}]
  # Blocks of the host, counted from 0, after which fewer tokens are left.
  reduction_loc: [3, 6, 9]
  # [0, 1, 2] takes three times as long, and tells what is chance.
  seed: [0]
  recipe: own
grids:
  # The host as it is, which the others are compared with.
  - {{method: [deit]}}
  # Shares of the patches that are left after the last of these blocks.
  - {{method: [topk, evit, tome, atc, random], keep_rate: [0.7, 0.5]}}
recipes:
  own:
    # {why}
    base: {recipe}
    # Any Vision Transformer of timm; DeiT has the capacities tiny, small and base.
    host: {host}
{select_on}{cache}{resources}"""
HOLDOUT = """\
    # The best epoch is picked on 5 % of the training images, so that evaluating stays honest.
    select_on: holdout
"""
NO_HOLDOUT = """\
    # Too few images for a holdout: the evaluated ones pick the best epoch, a bit too kindly.
    select_on: val
"""
CACHE = """\
    # Large images are decoded once, reduced to this shorter side.
    cache: 256
"""
RESOURCES = """\
    loader_workers: {cpus}
# What a cell reserves; auto is the share of a GPU that it is measured to need.
resources: {{{capacity}: {{cpu: {cpus}, gpu: auto}}}}
"""

EMBEDDING_HOST = "vit_small_patch14_dinov2.lvd142m"
LOOKS_AT_FEATURES = "a study of features: labels are not needed, and nothing is trained"
EMBEDDING_STUDY = """\
# How much of a host's features is left when tokens go, on the images in {folder}
# ({images} of them), written by `tokensweep init`: no labels, no training.
# docs/study-files.md has every key, docs/choosing.md says which method is for what.
name: {name}
defaults:
  dataset: [{dataset}]
  # Of the host: what is put in for {{capacity}} below, if it is there.
  capacity: [small]
  # Blocks of the host, counted from 0, after which fewer tokens are left.
  reduction_loc: [3, 6, 9]
  seed: [0]
  recipe: own
grids:
  # The host as it is, which the others are compared with.
  - {{method: [deit]}}
  # Shares of the patches that are left after each of these blocks, of those before it.
  - {{method: [topk, evit, tome, pitome, random], keep_rate: [0.9, 0.7, 0.5]}}
recipes:
  own:
    # Pooled features are compared with those of the host without reduction.
    task: embedding
    epochs: 0
    ema_decay: null
    # Any Vision Transformer of timm whose features you use: DINOv2, DINOv3, SigLIP, PE, ...
    host: {host}
{cache}{resources}"""
EMBEDDING_RESOURCES = """\
    loader_workers: {cpus}
resources: {{small: {{cpu: {cpus}, gpu: 0.25}}}}
"""


@dataclass(frozen=True)
class InitOptions:
    """Options of the command line; see `tokensweep init --help`."""

    folder: Path
    to: Path | None = None
    host: str | None = None
    weights: Path | None = None
    embedding: bool = False
    """Study features, whether there are labels or not."""


def init_study(options: InitOptions, console: Console) -> bool:
    """Look at a folder of images and write a study of it.

    Returns:
        Whether it is written; else the folder's problems are printed.

    Raises:
        UserError: There is no such folder, the file is there already, or the host does not fit.
    """
    name = study_name(options.folder)
    file = options.to or Path(f"{name}.yaml")
    if file.exists():
        raise UserError(f"{file} is there already; remove it or name another file with --to FILE")
    embeds = options.embedding or not has_classes(options.folder)
    index = check_data(f"{'images' if embeds else 'folder'}.{name}", options.folder, console)
    if index is None:
        line(console, f"mend the folder, then type again: {_command('init', options.folder)}")
        return False
    with work_shown(console) as progress:
        same = find_duplicates(index, progress)
    sides = shorter_sides(index)
    of_labels = [LOOKS_AT_FEATURES] if embeds else _balance(index)
    for words in (*_sizes(sides), *of_labels, *in_words(same)):
        line(console, words)
    text = embedding_text if embeds else study_text
    write_atomic(file, text(name, options, index, sides).encode())
    try:
        _estimate(file, options, console)
    except UserError:  # The host does not fit.
        file.unlink()
        raise
    line(console, f"wrote {file}")
    given = ("--weights", str(options.weights)) if options.weights else ()
    run = _command("run", "--study", file, "--data", options.folder, "--storage", "runs", *given)
    line(console, f"next: {run}")
    return True


def has_classes(folder: Path) -> bool:
    """Tell whether a folder has folders of classes: two or more inside, or `train` or `val`."""
    if not folder.is_dir():
        return True  # Which is another problem.
    inside = {path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."}
    return len(inside) > 1 or not inside.isdisjoint({"train", "val"})


def study_name(folder: Path) -> str:
    """Return a folder's name as that of a study: letters without accents, digits, `_`, `.`, `-`.

    It is not the name of a folder inside, which would be taken for the dataset's.
    """
    plain = unicodedata.normalize("NFKD", folder.resolve().name).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", plain).strip("_.-") or "images"
    try:
        study_folder(name)
    except ValueError:
        name += "_study"
    while (folder / name).exists():
        name += "_study"
    return name


def shorter_sides(index: Index) -> np.ndarray:
    """Return the shorter sides in pixels of at most `SIZES_READ` images of both splits."""
    splits = [split for split in (index.train, index.val) if isinstance(split, FileSplit)]
    files = [(split, number) for split in splits for number in range(len(split))]
    sides = []
    for split, number in files[:: -(-len(files) // SIZES_READ)]:
        with Image.open(split.root / split.name(number)) as image:
            sides.append(min(image.size))
    return np.array(sides)


def _sizes(sides: np.ndarray) -> Sequence[str]:
    low, middle, high = (f"{side:,.0f}" for side in np.percentile(sides, (0, 50, 100)))
    words = [f"shorter sides: {low} to {high} pixels, half of them {middle} or more"]
    if np.median(sides) < 224 / 2:
        words.append("note: most images are smaller than a host's 224 pixels, and are enlarged")
    return words


def _balance(index: Index) -> Sequence[str]:
    counts = np.bincount(index.train.targets, minlength=len(index.class_names))
    few, most = int(counts.argmin()), int(counts.argmax())
    smallest, largest = (f"{counts[at]:,} of {index.class_names[at]}" for at in (few, most))
    return [f"images to train on a class: {smallest} to {largest}"]


def study_text(name: str, options: InitOptions, index: Index, sides: np.ndarray) -> str:
    """Return the study file for a folder's images, by how many and how large they are.

    Args:
        name: Of the study.
        options: Names the folder and the host.
        index: What the folder holds.
        sides: Shorter sides of some images in pixels, [images].
    """
    gpus, count = torch.cuda.device_count(), len(index.train)
    capacity = "small" if gpus else "tiny"
    cpus = max(1, min(LOADERS, joblib.cpu_count() // max(1, gpus)))
    recipe, why = _recipe(count)
    return STUDY.format(
        folder=json.dumps(str(options.folder.absolute()), ensure_ascii=False),
        train=f"{count:,}",
        val=f"{len(index.val):,}",
        classes=len(index.class_names),
        name=json.dumps(name),
        dataset=json.dumps(f"folder.{name}"),
        capacity=capacity,
        recipe=recipe,
        why=why,
        host=json.dumps(options.host or Recipe().host),
        select_on=HOLDOUT if count // 20 >= FEWEST_HELD_OUT else NO_HOLDOUT,
        cache=CACHE if np.median(sides) >= LARGE else "",
        resources=RESOURCES.format(cpus=cpus, capacity=capacity) if gpus else "",
    )


def embedding_text(name: str, options: InitOptions, index: Index, sides: np.ndarray) -> str:
    """Return the study file on features of a folder's images; arguments as of `study_text`."""
    gpus = torch.cuda.device_count()
    cpus = max(1, min(LOADERS, joblib.cpu_count() // max(1, gpus)))
    resources = EMBEDDING_RESOURCES.format(cpus=cpus) if gpus else ""
    return EMBEDDING_STUDY.format(
        folder=json.dumps(str(options.folder.absolute()), ensure_ascii=False),
        images=f"{len(index.val):,}",
        name=json.dumps(name),
        dataset=json.dumps(f"images.{name}"),
        host=json.dumps(options.host or EMBEDDING_HOST),
        cache=CACHE if np.median(sides) >= LARGE else "",
        resources=resources,
    )


def _recipe(images: int) -> tuple[str, str]:
    """Return the shipped recipe for so many training images, and why."""
    if images < FEW:
        return "probe", f"Fewer than {FEW:,} images to train on: only the head is trained."
    if images <= MANY:
        return (
            "small_data",
            f"{FEW:,} to {MANY:,} images to train on: the host keeps what it knows.",
        )
    return "paper", f"More than {MANY:,} images to train on: as published for ImageNet."


def _estimate(file: Path, options: InitOptions, console: Console) -> None:
    """Print the hours that the study takes here, and which weights it lacks."""
    cells = expand(load_study(str(file.absolute())))
    name = cells[0].dataset
    with torch.device("meta"):
        found = forecast(cells, {name: open_dataset(name, options.folder)}, options.weights)
    line(console, f"{len(cells)} cells; {hours_in_words(found.macs, cells, {})}")
    try:
        check_hosts(cells, options.weights)
    except UserError as error:
        line(console, f"to be had before it runs: {error}", "yellow")


def _command(*words: object) -> str:
    return shlex.join(["tokensweep", *map(str, words)])
