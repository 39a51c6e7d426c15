"""The training of one cell, from its host's weights to its best ones. Knows no Ray.

Every step's randomness is seeded from (seed, epoch, batch) as the step starts, and the order of
the data from (seed, epoch), so that the weights, the optimiser's moments and the number of steps
done are all that a run needs to go on exactly where it stopped.

Several ranks do every step together: each takes its shard of every batch, and all end the step
with the same weights.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from trainables.cell import Cell
from trainables.cell_data import CellData
from trainables.compiling import Compiling
from trainables.data.loader import stream_seed
from trainables.device_batches import DeviceBatches
from trainables.distillation import Teacher
from trainables.host import build_model
from trainables.inference_pass import InferencePass
from trainables.losses import LossTerms, build_mixup, mean_terms
from trainables.objective import Objective
from trainables.optimizer import build_optimizer, set_learning_rates
from trainables.parts import part
from trainables.precision import autocast, autocast_dtype
from trainables.ranks import ALONE, Ranks, accumulating
from trainables.selecting import Selection, Weights
from trainables.stretch import Lead, Stretch
from trainables.teacher import load_teacher
from trainables.training_pass import TrainingPass, leaves_out_parameters


class Finetuning:
    """Finetunes a cell, in stretches as long as the caller likes.

    Args:
        cell: What is trained.
        data_root: The dataset's folder; None for an embedded dataset.
        host_weights: Folder of the hosts' pretrained weights; None lets timm fetch them.
        index_folder: Where indices of datasets are kept; None keeps none.
        device: Where to train.
        threads: CPU threads of PyTorch in this process.
        ranks: This process among those that train the cell together; all of them call the same
            methods in the same order.
        teacher_folder: Folder of the cell's prerequisite in the store, None where it has none.
    """

    def __init__(
        self,
        cell: Cell,
        *,
        data_root: Path | None,
        host_weights: Path | None = None,
        index_folder: Path | None = None,
        device: torch.device,
        threads: int,
        ranks: Ranks = ALONE,
        teacher_folder: Path | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self.cell = cell
        self.device = device
        self._ranks = ranks
        self.step = 0
        """Optimiser steps done."""
        self._lr: float | None = None
        self._batches: DeviceBatches | None = None
        self._lead = Lead(device)
        self._notes: list[str] = []
        self._inference: dict[str, InferencePass] = {}
        self._spent = {"seconds": 0.0, "waited": 0.0}
        self.data = self._open_data(data_root, host_weights, index_folder)
        self._selection = Selection(self.data, cell.recipe.batch_size, ranks)
        self._preparing = self.data.prepare_training()
        self._steps_per_epoch = math.ceil(self.data.batches_per_epoch / cell.recipe.accumulation)
        self.total_steps = self._steps_per_epoch * cell.recipe.epochs
        self._set_up_training(host_weights)
        self._teacher = self._find_teacher(teacher_folder, host_weights)

    def _open_data(
        self, data_root: Path | None, host_weights: Path | None, index_folder: Path | None
    ) -> CellData:
        return CellData(self.cell, data_root, host_weights, index_folder, self._ranks)

    def _find_teacher(self, folder: Path | None, host_weights: Path | None) -> Teacher | None:
        return load_teacher(self.cell, self.model, self.data.dataset, folder, host_weights)

    def _set_up_training(self, host_weights: Path | None) -> None:
        recipe, dataset = self.cell.recipe, self.data.dataset
        num_classes = len(dataset.class_names)
        self.model = build_model(self.cell, num_classes, weights=host_weights).to(self.device)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay) if recipe.ema_decay else None
        self.model.set_grad_checkpointing(recipe.grad_checkpointing)
        training_pass = TrainingPass(self.model)
        self._compiling = Compiling.of(self.cell, self.model, "trains", self._notes.append)
        self._compiling.add(training_pass)
        self._forward = self._ranks.parallel(
            training_pass, unused_parameters=leaves_out_parameters(self.model)
        )
        self._optimizer = build_optimizer(self.model, recipe)
        self._dtype = autocast_dtype(recipe, self.device)
        scales = self._dtype is torch.float16
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=scales)
        self._mixup = build_mixup(recipe, dataset.task, num_classes)
        self._objective = Objective(self.cell, dataset.task)

    @property
    def finished(self) -> bool:
        """Whether all steps are done and the last weights evaluated."""
        return self.step == self.total_steps and self.accuracy is not None

    @property
    def accuracy(self) -> float | None:
        """The last evaluation's better score of model and average, in percent."""
        return self._selection.accuracy

    @property
    def best(self) -> tuple[Weights, dict[str, Any]]:
        """See `Selection.best`."""
        return self._selection.best

    def run(self, until: Callable[[], bool]) -> dict[str, Any]:
        """Train to the epoch's end and evaluate, or stop where `until()` holds after a step.

        All ranks stop where it holds on one of them.

        Returns:
            What this call did and where the cell stands, as a flat dict: `epoch` (finished ones),
            `epochs`, `step`, `total_steps`, `loss` (mean over this call's steps) and its
            `loss_terms`, `lr` (highest of the last step), `metric`, `accuracy` and
            `best_accuracy` (percent), `images_per_second`, `data_wait` (share of the training
            time), `preparing` (words on the images where they had to be made ready: then there is
            no training yet), `notes` (lines on what does not go as the recipe says),
            `epoch_ended`, `best_improved` and `finished`. None where there is no value.

        Raises:
            NonFiniteError: If a loss, the gradients or an evaluation's logits are infinite or not
                a number. The weights are lost; those of any earlier step are good.
        """
        stretch, ended, improved = Stretch(self.step), False, False
        preparing = None if self.finished else self._prepare(until)
        if not (self.finished or preparing):
            self._train_stretch(until, stretch)
            self._spent["seconds"] += stretch.seconds
            self._spent["waited"] += stretch.waited
            ended = self.step % self._steps_per_epoch == 0
            improved = ended and self.evaluate()
        notes = list(self._notes)
        self._notes.clear()
        return {
            **stretch.report(),
            "notes": notes,
            "preparing": preparing,
            "epoch": self._epoch,
            "epochs": self.cell.recipe.epochs,
            "step": self.step,
            "total_steps": self.total_steps,
            "lr": self._lr,
            "metric": self.data.dataset.metric,
            "accuracy": self.accuracy,
            "best_accuracy": self._selection.meta and self._selection.meta["accuracy"],
            "epoch_ended": ended,
            "best_improved": improved,
            "finished": self.finished,
        }

    def close(self) -> None:
        """End the processes that load data, if any; a later `run` starts new ones."""
        self._batches = None
        self._selection.close()
        self._preparing.close()
        self._preparing = self.data.prepare_training()

    def result(self) -> dict[str, Any]:
        """Return the training's outcome: the best epoch's accuracy, and how it was selected."""
        recipe, best = self.cell.recipe, self._selection.meta or {}
        seconds = self._spent["seconds"]
        return {
            "metric": self.data.dataset.metric,
            "accuracy": best.get("accuracy"),
            "epoch": best.get("epoch"),
            "source": best.get("source"),
            "last_accuracy": self.accuracy,
            "select_on": recipe.select_on,
            "epochs": recipe.epochs,
            "total_steps": self.total_steps,
            "train_images": len(self.data.train),
            "train_seconds": seconds,
            "data_wait": self._spent["waited"] / seconds if seconds else None,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything to go on from here: tensors, numbers and strings only."""
        return {
            "step": self.step,
            "accuracy": self.accuracy,
            "best": self._selection.meta,
            "spent": dict(self._spent),
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "moments": self._optimizer.state_dict()["state"],
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same cell; rates and decay stay those of this recipe."""
        self.step = state["step"]
        self._selection.restore(state["accuracy"], state["best"])
        self._spent = dict(state["spent"])
        self._batches = None
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state["moments"], "param_groups": groups})
        self._scaler.load_state_dict(state["scaler"])

    @property
    def _epoch(self) -> int:
        return self.step // self._steps_per_epoch

    def _prepare(self, until: Callable[[], bool]) -> str | None:
        """Make the images ready, or stop where `until()` holds; return words if that took any."""
        words = None
        while said := next(self._preparing, None):
            words = said
            if until():
                break
        others = self._ranks.any(words is not None)
        return words or ("waiting for another worker's images" if others else None)

    def _train_stretch(self, until: Callable[[], bool], stretch: Stretch) -> None:
        """Do optimiser steps until the epoch ends or `until()` holds; read what they found."""
        end = min((self._epoch + 1) * self._steps_per_epoch, self.total_steps)
        self.model.train()
        started = time.perf_counter()
        while self.step < end:
            self._train_step(stretch)
            if self._ranks.any(until()):
                break
        # A step that cannot be used is raised before anyone evaluates or saves.
        stretch.read(self._ranks)
        stretch.seconds = time.perf_counter() - started
        stretch.waited = self._batches.waited() if self._batches else 0.0

    def _train_step(self, stretch: Stretch) -> None:
        """Ask for one optimiser step over a window of batches; an epoch's last may be shorter.

        Nothing in it waits for what the device computes of it.
        """
        recipe, epoch = self.cell.recipe, self._epoch
        first = self.step % self._steps_per_epoch * recipe.accumulation
        window = range(first, min(first + recipe.accumulation, self.data.batches_per_epoch))
        self._lr = set_learning_rates(
            self._optimizer, self.step, recipe=recipe, steps_per_epoch=self._steps_per_epoch
        )
        loaded, batches = self._loaded(epoch, first), []
        for number in window:
            images, targets, _ = next(loaded)
            with part("mixup"):
                images, targets = self._mixed(images, targets, epoch, number)
            last = number == window[-1]
            passes = partial(self._backward, images, targets, share=1 / len(window))
            self._prove_compiling(passes)
            with nullcontext() if last else accumulating(self._forward):
                batches.append(passes())
            stretch.images += self.data.batch_images
        norm = self._apply_gradients()
        stretch.note(mean_terms(batches), norm, self._scaler.scale(torch.ones_like(norm)))
        self._lead.step_asked()
        loaded.prefetch()  # While the device works on the step.
        self.step += 1

    def _loaded(self, epoch: int, number: int) -> DeviceBatches:
        """Return the batches left, from this one on; they live on from one `run` to the next."""
        if self._batches is None:
            loader = self.data.train_batches(epoch, start_batch=number)
            self._batches = DeviceBatches(loader, self.device, self.data.normalise)
        return self._batches

    def _mixed(
        self, images: Tensor, targets: Tensor, epoch: int, number: int
    ) -> tuple[Tensor, Tensor]:
        """Seed the batch's draws and mix it: alike on all ranks, which then draw on their own."""
        _seed_generators(self.cell.seed, epoch, number)
        if self._mixup:
            images, targets = self._mixup(images, targets)
        if self._ranks.size > 1:
            _seed_generators(self.cell.seed, epoch, number, self._ranks.rank)
        return images, targets

    def _prove_compiling(self, passes: Callable[[], LossTerms]) -> None:
        """Find out, in the first step, whether passes work compiled if the recipe says so."""
        with accumulating(self._forward):
            self._compiling.prove(passes, self.device, self._ranks)

    def _backward(self, images: Tensor, targets: Tensor, share: float) -> LossTerms:
        """Add a batch's gradients, weighted by its share of the step.

        Returns:
            This rank's part of the batch's loss: the parts of all ranks add up to it.
        """
        with part("forward"):
            with autocast(self.device, self._dtype):
                logits, trace = self._forward(images)
                lesson = self._teacher(images) if self._teacher else None
            terms = self._objective(logits, trace, lesson, targets)
            loss = torch.stack(list(terms.values())).sum()
        shard = len(images) / self.data.batch_images
        with part("backward"):
            # The ranks' gradients are averaged, where those of shards would be added.
            self._scaler.scale(loss * (share * shard * self._ranks.size)).backward()
        return {name: term.detach() * shard for name, term in terms.items()}

    def _apply_gradients(self) -> Tensor:
        """Do the step; return the norm of its gradients before they were clipped, a scalar."""
        with part("optimiser"):
            norm = self._optimizer_step()
        if self.ema:
            with part("average"):
                self.ema.update(self.model)
        return norm

    def _optimizer_step(self) -> Tensor:
        self._scaler.unscale_(self._optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        if self.cell.recipe.clip_grad is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.cell.recipe.clip_grad, norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return norm

    def evaluate(self) -> bool:
        """Score the model and its average; return whether one of them is the best so far."""
        passes = self._inference = self._inference or self._inference_passes()
        with part("evaluation"):
            return self._selection.evaluate(
                passes, epoch=self._epoch, step=self.step, device=self.device, dtype=self._dtype
            )

    def _inference_passes(self) -> dict[str, InferencePass]:
        models = {"model": self.model} | ({"ema": self.ema.module} if self.ema else {})
        # Where training is not compiled, a line has said so.
        compiling = Compiling("evaluates", self._notes.append, on=self._compiling.on)
        return {name: InferencePass(model, compiling=compiling) for name, model in models.items()}


def _seed_generators(*numbers: int) -> None:
    """Make drop path, mixup and a method's own draws functions of where the training stands."""
    stream = stream_seed(*numbers)
    torch.manual_seed(stream)
    np.random.seed(stream % 2**32)  # noqa: NPY002 - timm's Mixup draws from this generator
