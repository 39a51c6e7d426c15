"""The training of one cell, from its host's weights to its best ones. Knows no Ray.

Each step seeds its random numbers from (seed, epoch, batch), and each epoch the order of its
images from (seed, epoch). The weights, the optimiser's moments and the number of finished steps
are therefore all that a run needs to continue exactly where it stopped.

Several ranks do every step together: each takes its shard of every batch, and all end the step
with the same weights.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from reduction.model import ReducedVisionTransformer
from trainables.cell.cell import Cell
from trainables.cell.json_records import BestRecord, TrainingResult, TrialValues
from trainables.cell.report import Report
from trainables.data.loader import stream_seed
from trainables.loop.adapters import plain, rest_backbone
from trainables.loop.data import TrainingData
from trainables.loop.device_batches import DeviceBatches
from trainables.loop.movement import Movement, note_on_movement, note_on_start
from trainables.loop.objective import LossTerms, Objective, build_mixup, mean_loss, mean_terms
from trainables.loop.optimizer import build_optimizer, set_learning_rates
from trainables.loop.part_timing import part
from trainables.loop.selecting import BestWeights, Weights
from trainables.loop.step_statistics import HostLead, StepStatistics
from trainables.models.compiling import Compiling
from trainables.models.device import autocast, autocast_dtype
from trainables.models.distillation import Teacher
from trainables.models.passes import InferencePass, TrainingPass, leaves_out_parameters
from trainables.workers import ALONE, Workers, accumulating

ResumeState = dict[str, Any]
"""All that it takes to continue a training: tensors, numbers and strings, for `torch.save`."""


class Finetuning:
    """Finetunes a cell, a few steps a call.

    Args:
        cell: What is trained.
        model: The cell's model, on the device.
        data: What it is trained on.
        teacher: Who teaches it, None without distillation.
        device: Where to train.
        ranks: This process among those that train the cell together; all of them call the same
            methods in the same order.
    """

    def __init__(
        self,
        cell: Cell,
        model: ReducedVisionTransformer,
        data: TrainingData,
        teacher: Teacher | None,
        *,
        device: torch.device,
        ranks: Workers = ALONE,
    ) -> None:
        self.cell = cell
        self.model = model
        self.data = data
        self.device = device
        self._teacher = teacher
        self._ranks = ranks
        self.step = 0
        """Finished optimiser steps."""
        self._lr: float | None = None
        self._batches: DeviceBatches | None = None
        self._lead = HostLead(device)
        self._notes: list[str] = []
        self._inference: dict[str, InferencePass] = {}
        self._spent = {"seconds": 0.0, "waited": 0.0}
        self._movement = Movement(model)
        loss = partial(mean_loss, cell.recipe, data.dataset.task) if cell.trial else None
        self._selection = BestWeights(data, cell.recipe.batch_size, ranks, loss)
        self._preparing = data.prepare_training()
        self._steps_per_epoch = math.ceil(data.batches_per_epoch / cell.recipe.accumulation)
        self.total_steps = self._steps_per_epoch * cell.recipe.epochs
        self._set_up_training()

    def _set_up_training(self) -> None:
        recipe, dataset = self.cell.recipe, self.data.dataset
        rest_backbone(self.model, recipe, self.cell.seed)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay) if recipe.ema_decay else None
        self.model.set_grad_checkpointing(recipe.grad_checkpointing)
        training_pass = TrainingPass(self.model, pooled=recipe.distillation == "idlevit")
        self._compiling = Compiling.of(self.cell, self.model, "trains", self._notes.append)
        self._compiling.add(training_pass)
        self._forward = self._ranks.parallel(
            training_pass, unused_parameters=leaves_out_parameters(self.model)
        )
        self._optimizer = build_optimizer(self.model, recipe)
        self._dtype = autocast_dtype(recipe, self.device)
        scales = self._dtype is torch.float16
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=scales)
        self._mixup = build_mixup(recipe, dataset.task, len(dataset.class_names))
        self._objective = Objective(self.cell, dataset.task)

    @property
    def _is_embedding(self) -> bool:
        """Whether there is nothing to train and nothing to select by."""
        return self.data.dataset.task == "embedding"

    @property
    def finished(self) -> bool:
        """Whether all steps are done and the last weights evaluated, where anything scores them."""
        scored = self.accuracy is not None or (self._is_embedding and bool(self._selection.meta))
        return self.step == self.total_steps and scored

    @property
    def accuracy(self) -> float | None:
        """The last evaluation's better score of model and average, in percent."""
        return self._selection.accuracy

    @property
    def best(self) -> tuple[Weights, BestRecord]:
        """See `BestWeights.best`."""
        return self._selection.best

    def run(self, until: Callable[[], bool]) -> Report:
        """Train to the epoch's end and evaluate, or stop after a step for which `until()` holds.

        All ranks stop when it holds on one of them.

        Returns:
            What this call did, and where the cell stands. The call that makes images readable
            trains nothing.

        Raises:
            NonFiniteError: A loss, the gradients or an evaluation's logits are infinite or not a
                number. The weights are lost; those of any earlier step are good.
        """
        steps, ended, improved = StepStatistics(self.step), False, False
        moved: dict[str, float] | None = None
        preparing = None if self.finished else self._prepare(until)
        if not (self.finished or preparing):
            self._train_steps(until, steps)
            self._spent["seconds"] += steps.seconds
            self._spent["waited"] += steps.waited
            ended = self.step % self._steps_per_epoch == 0
            improved = ended and self.evaluate()
            moved = self._movement.of(self.model) if ended else None
            self._notes += self._notes_on_beginning(steps, moved)
        notes = tuple(self._notes)
        self._notes.clear()
        return Report(
            loss=steps.loss,
            loss_terms=steps.loss_terms,
            images_per_second=steps.images_per_second,
            data_wait=steps.data_wait,
            notes=notes,
            preparing=preparing,
            epoch=self.epoch,
            epochs=self.cell.recipe.epochs,
            step=self.step,
            total_steps=self.total_steps,
            lr=self._lr,
            metric=self.data.dataset.metric,
            accuracy=self.accuracy,
            best_accuracy=(self._selection.meta or {}).get("accuracy"),
            moved=moved,
            epoch_ended=ended,
            best_improved=improved,
            finished=self.finished,
        )

    def _notes_on_beginning(
        self, steps: StepStatistics, moved: dict[str, float] | None
    ) -> list[str]:
        """Return what is odd about the first step, and about how far the first epoch moved."""
        notes = []
        dataset = self.data.dataset
        if steps.first_step == 0 and steps.losses and dataset.task == "single_label":
            loss = steps.losses[0]["classification"]
            notes.append(note_on_start(loss, len(dataset.class_names)))
        if moved is not None and self.epoch == 1:
            notes.append(note_on_movement(moved, self.cell.recipe))
        return [note for note in notes if note is not None]

    def close(self) -> None:
        """End the processes that load data, if any; a later `run` starts new ones."""
        self._batches = None
        self._selection.close()
        self._preparing.close()
        self._preparing = self.data.prepare_training()

    def result(self) -> TrainingResult:
        """Return the training's outcome: the best epoch's accuracy, and how it was selected."""
        recipe, best = self.cell.recipe, self._selection.meta or BestRecord()
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
            **self._of_trial(best),
        }

    def _of_trial(self, best: BestRecord) -> TrialValues:
        """Return what the results of trials have more than others."""
        return {"loss": best.get("loss")} if self.cell.trial else {}

    def state_dict(self) -> ResumeState:
        """Return all that it takes to continue from here."""
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

    def load_state_dict(self, state: ResumeState) -> None:
        """Continue from a state of the same cell; rates and decay stay those of this recipe."""
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
    def epoch(self) -> int:
        """Finished epochs."""
        return self.step // self._steps_per_epoch

    def _prepare(self, until: Callable[[], bool]) -> str | None:
        """Make the images readable until `until()` holds; return what is done, None when all is."""
        words = None
        while step := next(self._preparing, None):
            words = step
            if until():
                break
        others = self._ranks.any(words is not None)
        return words or ("waiting for another worker's images" if others else None)

    def _train_steps(self, until: Callable[[], bool], steps: StepStatistics) -> None:
        """Do optimiser steps until the epoch ends or `until()` holds; read what they found."""
        end = min((self.epoch + 1) * self._steps_per_epoch, self.total_steps)
        self.model.train()
        started = time.perf_counter()
        while self.step < end:
            self._train_step(steps)
            if self._ranks.any(until()):
                break
        # This raises if a step is not finite, before anyone evaluates or saves.
        steps.read(self._ranks)
        steps.seconds = time.perf_counter() - started
        steps.waited = self._batches.waited() if self._batches else 0.0

    def _train_step(self, steps: StepStatistics) -> None:
        """Queue one optimiser step over a window of batches; the last of an epoch may be shorter.

        Nothing in it waits for the device to compute.
        """
        recipe, epoch = self.cell.recipe, self.epoch
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
            steps.images += self.data.batch_images
        norm = self._apply_gradients()
        steps.note(mean_terms(batches), norm, self._scaler.scale(torch.ones_like(norm)))
        self._lead.step_queued()
        loaded.prefetch()  # While the device works on the step.
        self.step += 1

    def _loaded(self, epoch: int, number: int) -> DeviceBatches:
        """Return the batches from this one on; they are kept from one `run` to the next."""
        if self._batches is None:
            loader = self.data.train_batches(epoch, start_batch=number)
            self._batches = DeviceBatches(loader, self.device, self.data.normalise)
        return self._batches

    def _mixed(
        self, images: Tensor, targets: Tensor, epoch: int, number: int
    ) -> tuple[Tensor, Tensor]:
        """Seed the batch's draws and mix it, alike on all ranks, whose later draws differ."""
        _seed_generators(self.cell.seed, epoch, number)
        if self._mixup:
            images, targets = self._mixup(images, targets)
        if self._ranks.size > 1:
            _seed_generators(self.cell.seed, epoch, number, self._ranks.rank)
        return images, targets

    def _prove_compiling(self, passes: Callable[[], LossTerms]) -> None:
        """Find out in the first step whether compiled passes work, if the recipe asks for them."""
        with accumulating(self._forward):
            self._compiling.prove(passes, self.device, self._ranks)

    def _backward(self, images: Tensor, targets: Tensor, share: float) -> LossTerms:
        """Add a batch's gradients, weighted by its share of the step.

        Returns:
            This rank's part of the batch's loss: the parts of all ranks add up to it.
        """
        with part("forward"):
            with autocast(self.device, self._dtype):
                output = self._forward(images)
                taught = self._teacher(images) if self._teacher else None
            terms = self._objective(output, taught, targets)
            loss = torch.stack(list(terms.values())).sum()
        shard = len(images) / self.data.batch_images
        with part("backward"):
            # DDP averages the gradients of the ranks, but those of shards add up.
            self._scaler.scale(loss * (share * shard * self._ranks.size)).backward()
        return {name: term.detach() * shard for name, term in terms.items()}

    def _apply_gradients(self) -> Tensor:
        """Do the step; return the norm of its gradients before clipping, a scalar."""
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
        if self._is_embedding:
            return self._selection.keep(self.model)
        passes = self._inference = self._inference or self._inference_passes()
        with part("evaluation"), plain([inference.model for inference in passes.values()]):
            return self._selection.evaluate(
                passes, epoch=self.epoch, step=self.step, device=self.device, dtype=self._dtype
            )

    def _inference_passes(self) -> dict[str, InferencePass]:
        models = {"model": self.model} | ({"ema": self.ema.module} if self.ema else {})
        # If training could not be compiled, a note has said so.
        compiling = Compiling("evaluates", self._notes.append, on=self._compiling.on)
        return {name: InferencePass(model, compiling=compiling) for name, model in models.items()}


def _seed_generators(*numbers: int) -> None:
    """Make drop path, mixup and a method's own draws a function of epoch and batch."""
    stream = stream_seed(*numbers)
    torch.manual_seed(stream)
    np.random.seed(stream % 2**32)  # noqa: NPY002 - timm's Mixup draws from this generator
