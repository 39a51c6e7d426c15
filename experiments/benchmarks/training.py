"""Measure training and evaluation against the least that they could take.

    python experiments/benchmarks/training.py --threads 2

Images are noise that is there before the clock starts, so nothing is read or decoded. What is
compared takes turns, so that what else the machine does meets both alike; a value is the median
over the repeats of the ratio of two turns that follow each other.

- plain host: images a second of this project's training loop over those of a loop the way timm's
  own script goes, with the same model, batch, mixup, AdamW, average and precision;
- each method: images a second over the plain host's, times the method's share of the host's
  multiply-accumulates: 1 where all work saved is time saved;
- gradient checkpointing: images a second of the plain host over those without it;
- compiling, where asked for: the same, without the first steps;
- checkpoints: time that training stands still for a state over what writing it takes as well;
- evaluation: time over that of a plain forward pass over the same images;
- evaluation compiled, where asked for: images a second over those uncompiled, traces included.

Writes `training.json` and `training.md` into the output folder and prints the table.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast
from unittest import mock

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn

import reduction
from experiments.benchmarks.results import (
    CLOCKS,
    Measurement,
    environment,
    line,
    option_parser,
    write,
)
from trainables import evaluation
from trainables.cell.cell import Cell
from trainables.cell.cell_folder import CellFolder
from trainables.data.base import ImageDataset, Split
from trainables.data.normalisation import Normalisation
from trainables.loop.device_batches import DeviceBatches
from trainables.loop.loop import Finetuning
from trainables.models.compiling import Compiling
from trainables.models.device import autocast, autocast_dtype
from trainables.models.host import build_model
from trainables.models.macs import macs_of_model
from trainables.models.passes import InferencePass
from trainables.recipe import Recipe
from trainables.trial.calibration import CLASSES, rehearsal, seconds_a_step
from trainables.trial.cell_training import as_bytes, on_cpu

BASELINE = "deit"
NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NOTHING = cast(Split, ())
"""A split that nobody reads from."""
Turn = Callable[[], object]


def noise(size: int, side: int) -> Tensor:
    """Return the pixels of a batch of images, uint8 [size, 3, side, side]."""
    return torch.randint(256, (size, 3, side, side), dtype=torch.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = parse(arguments)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    bench, rows = Benchmark(options), []
    print(line(Measurement.__annotations__), flush=True)
    for row in bench.all():
        rows.append(asdict(row))
        print(line(rows[-1].values()), flush=True)
    write(options.out, "training", rows, environment(options))
    print(f"wrote training.json and training.md into {options.out}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = option_parser(
        __doc__,
        device="cpu",
        host="deit_tiny_patch16_224",
        image_size=224,
        batch_size=16,
        threads=None,
        repeats=5,
        clock="wall",
    )
    add = parser.add_argument
    add("--methods", nargs="*", default=["topk"], choices=list(reduction.METHODS))
    add("--keep-rate", type=float, default=0.5)
    add("--compile", action="store_true", help="also compile; takes minutes to begin")
    add("--eval-batches", type=int, default=4, help="of an evaluation")
    return parser.parse_args(arguments)


class Benchmark:
    """Everything that is compared, on one device.

    Args:
        options: Of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._device = torch.device(options.device)
        self._recipe = Recipe(
            host=options.host,
            image_size=options.image_size,
            batch_size=options.batch_size,
            accumulation=1,
            ema_decay=0.999,
        )

    def all(self) -> Iterator[Measurement]:
        """Measure everything, one row after the other."""
        yield self.plain_host()
        yield from self.methods()
        yield from self.options()
        yield from self.evaluations()

    def plain_host(self) -> Measurement:
        """Compare the loop with timm's."""
        ours = partial(seconds_a_step, self._baseline)
        theirs = TimmLoop(self._recipe, self._device).step
        pairs = self._turns(ours, theirs)
        return Measurement(
            measured=f"training {self._options.host}, images/s over those of timm's loop",
            value=statistics.median(timm / own for own, timm in pairs),
            target="at least 1",
            details=self._speeds("timm's", [own for own, _ in pairs], [t for _, t in pairs]),
        )

    def methods(self) -> Iterator[Measurement]:
        """Compare what each method gains with the work that it saves."""
        for method in self._options.methods:
            reduced = self._rehearsal(method)
            pairs = self._turns(
                *(partial(seconds_a_step, each) for each in (reduced, self._baseline))
            )
            speed_up = statistics.median(plain / own for own, plain in pairs)
            work = _macs_an_image(reduced) / _macs_an_image(self._baseline)
            yield Measurement(
                measured=f"training {method} at {self._options.keep_rate}, speed-up times work",
                value=speed_up * work,
                target="at least 0.85",
                details=f"speed-up {speed_up:.2f}, work {work:.3f}",
            )

    def options(self) -> Iterator[Measurement]:
        """Compare the plain host with itself under a recipe's options of speed."""
        asked = ["grad_checkpointing", *(["compile"] if self._options.compile else [])]
        for option in asked:
            changed = self._rehearsal(BASELINE, **{option: True})
            pairs = self._turns(
                *(partial(seconds_a_step, each) for each in (changed, self._baseline))
            )
            yield Measurement(
                measured=f"training {self._options.host} with {option}, speed-up",
                value=statistics.median(plain / own for own, plain in pairs),
                target="at least 0.6" if option == "grad_checkpointing" else "at least 1",
                details=self._speeds("plain", [own for own, _ in pairs], [p for _, p in pairs]),
            )
        yield self._checkpoints()

    def _checkpoints(self) -> Measurement:
        """Compare what a checkpoint costs the training with what it takes in all."""
        training = self._baseline
        with TemporaryDirectory() as place:
            folder = CellFolder(Path(place))
            pairs = self._turns(
                lambda: on_cpu(training.state_dict()),
                lambda: folder.save_last(1, as_bytes(on_cpu(training.state_dict()))),
            )
        return Measurement(
            measured="training stands still for a checkpoint, of the time until it is written",
            value=statistics.median(blocked / whole for blocked, whole in pairs),
            target="at most 0.5",
            details=f"{statistics.median(blocked for blocked, _ in pairs):.3f} s of "
            f"{statistics.median(whole for _, whole in pairs):.3f} s",
        )

    def evaluations(self) -> Iterator[Measurement]:
        """Compare evaluations with the least they could take, and with themselves compiled."""
        yield self._evaluation()
        if self._options.compile:
            yield self._compiled_evaluation()

    def _evaluation(self) -> Measurement:
        """Compare an evaluation with a forward pass."""
        cell, images = self._cell("topk"), self._images()
        weights = self._rehearsal("topk").model.state_dict()
        model = build_model(cell, CLASSES, pretrained=False).to(self._device).eval()
        run = partial(evaluated, cell, weights, images, self._device)
        ready = [NORMALISATION((batch, batch, batch))[0] for batch in images]
        pairs = self._turns(run, partial(self._forward, model, ready))
        return Measurement(
            measured="evaluating topk, time over that of a plain forward pass",
            value=statistics.median(whole / plain for whole, plain in pairs),
            target="at most 1.2",
            details=f"{len(images)} batches of {self._options.batch_size} images",
        )

    def _compiled_evaluation(self) -> Measurement:
        """Compare an evaluation's passes compiled with the same ones as they are."""
        model, images, notes = self._rehearsal("topk").model.eval(), self._images(), list[str]()
        compiling = Compiling("evaluates", notes.append)
        plain, compiled = (
            partial(self._traced, InferencePass(model, traced=True, compiling=each), images)
            for each in (None, compiling)
        )
        pairs = self._turns(compiled, plain)
        return Measurement(
            measured="evaluating topk with compile, speed-up",
            value=statistics.median(as_is / own for own, as_is in pairs),
            target="at least 1",
            details="; ".join(
                [f"{len(images)} batches of {self._options.batch_size} images", *notes]
            ),
        )

    def _traced(self, traced: InferencePass, images: Sequence[Tensor]) -> None:
        arriving = Noise(images).eval_batches(NOTHING, self._options.batch_size)
        batches = DeviceBatches(arriving, self._device, NORMALISATION)
        dtype = autocast_dtype(self._recipe, self._device)
        evaluation._run(traced, batches, self._device, dtype)

    @cached_property
    def _baseline(self) -> Finetuning:
        return self._rehearsal(BASELINE)

    def _rehearsal(self, method: str, **recipe: bool) -> Finetuning:
        return rehearsal(
            self._cell(method, **recipe),
            host_weights=None,
            device=self._device,
            threads=torch.get_num_threads(),
        )

    def _cell(self, method: str, **recipe: bool) -> Cell:
        return Cell(
            dataset="noise",
            method=method,
            capacity="tiny",
            keep_rate=1.0 if method == BASELINE else self._options.keep_rate,
            reduction_loc=(3, 6, 9),
            recipe=self._recipe.model_copy(update=recipe),
        )

    def _images(self) -> list[Tensor]:
        size, side = self._options.batch_size, self._options.image_size
        return [noise(size, side) for _ in range(self._options.eval_batches)]

    @torch.inference_mode()
    def _forward(self, model: nn.Module, images: Sequence[Tensor]) -> None:
        for batch in images:
            with autocast(self._device, autocast_dtype(self._recipe, self._device)):
                model(batch.to(self._device))

    def _steps_of(self, first: Finetuning, second: Finetuning) -> list[tuple[float, float]]:
        return self._turns(partial(seconds_a_step, first), partial(seconds_a_step, second))

    def _turns(self, first: Turn, second: Turn) -> list[tuple[float, float]]:
        """Return the seconds of both, as often as they are to be repeated; one turn warms up."""
        pairs = [
            (self._timed(first), self._timed(second)) for _ in range(self._options.repeats + 1)
        ]
        return pairs[1:]

    def _timed(self, turn: Turn) -> float:
        clock = CLOCKS[self._options.clock]
        start = clock()
        turn()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return clock() - start

    def _speeds(self, name: str, own: Sequence[float], other: Sequence[float]) -> str:
        speeds = [self._options.batch_size / statistics.median(times) for times in (own, other)]
        return f"{speeds[0]:.1f} images/s, {name} {speeds[1]:.1f}"


def _macs_an_image(training: Finetuning) -> float:
    return macs_of_model(training.cell, training.model, None)


class TimmLoop:
    """A training the way timm's own script goes about it.

    Args:
        recipe: The same as for this project's.
        device: Where to train.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._dtype, self._device = autocast_dtype(recipe, device), device
        model = timm.create_model(
            recipe.host,
            num_classes=CLASSES,
            img_size=recipe.image_size,
            drop_path_rate=recipe.drop_path,
        )
        self._model = model.to(device).train()
        self._average = ModelEmaV3(self._model, decay=recipe.ema_decay)
        self._optimizer = create_optimizer_v2(
            self._model, opt="adamw", lr=1e-4, weight_decay=recipe.weight_decay
        )
        self._mixup = Mixup(
            mixup_alpha=recipe.mixup,
            cutmix_alpha=recipe.cutmix,
            label_smoothing=recipe.label_smoothing,
            num_classes=CLASSES,
        )
        self._loss = SoftTargetCrossEntropy()
        self._pixels = noise(recipe.batch_size, recipe.image_size)
        self._mean_std = torch.full((2, 3, 1, 1), 0.5, device=device)
        self._targets = torch.arange(recipe.batch_size) % CLASSES

    def step(self) -> None:
        """Do an optimiser step, copies to the device included."""
        pixels, targets = self._pixels.to(self._device), self._targets.to(self._device)
        # As timm's loader does it, where the images have arrived.
        mean, std = 255 * self._mean_std
        images, targets = self._mixup(pixels.float().sub_(mean).div_(std), targets)
        with autocast(self._device, self._dtype):
            loss = self._loss(self._model(images), targets)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._average.update(self._model)


class Noise:
    """Stands for `CellData` in an evaluation."""

    def __init__(self, images: Sequence[Tensor]) -> None:
        self._images = images
        names = tuple(map(str, range(CLASSES)))
        self.dataset = ImageDataset("noise", "single_label", names, NOTHING, NOTHING)
        self.normalise = NORMALISATION

    def eval_batches(self, split: Split, batch_size: int) -> list[tuple[Tensor, ...]]:
        """Return the images with targets and their numbers, in the batches they came in."""
        numbers = torch.arange(sum(map(len, self._images))).split([len(b) for b in self._images])
        return [(batch, n % CLASSES, n) for batch, n in zip(self._images, numbers, strict=True)]


def evaluated(
    cell: Cell, weights: dict[str, Tensor], images: Sequence[Tensor], device: torch.device
) -> None:
    """Evaluate a cell on images that are there, without measuring its speed."""
    with (
        mock.patch.object(evaluation, "CellData", return_value=Noise(images)),
    ):
        evaluation.evaluate_cell(
            cell, weights, data_root=None, device=device, threads=torch.get_num_threads()
        )


if __name__ == "__main__":
    main()
