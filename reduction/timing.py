"""How much faster a reduced model is than its host, and how much memory it takes.

Host and reduced model take turns on the same resident images, so that what else the machine does
meets both alike; the speed-up is the median over the rounds of the ratio within each round.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from reduction.host_input import image_size
from reduction.model import ReducedVisionTransformer
from reduction.surgery import unreduce

LEAST_ROUNDS = 7
"""Fewer tell too little about the spread."""
MOST_TIMES = 4
"""How many times as many rounds follow each other at most while the speed-up is uncertain."""
UNCERTAIN = 0.01
"""Half the width of the 95 % interval of a median, relative to it, that is small enough."""
WARM_UP_PASSES = 3
TURN_SECONDS = 0.02
"""A turn repeats passes that are shorter: a clock and a scheduler blur what takes less."""
LATENCIES = 20
"""Fewest passes that single images are timed in: a 95th percentile needs them."""
MIB = 2**20

Forward = Callable[[Tensor], object]
Clock = Callable[[], float]


class Quartiles(NamedTuple):
    """Lower quartile, median and upper quartile."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the quartiles of at least two values, interpolated between their ranks."""
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))

    @property
    def spread(self) -> float:
        """Distance of the quartiles, relative to the median."""
        return (self.high - self.low) / self.median

    def uncertainty(self, count: int) -> float:
        """Return half the 95 % interval of the median of so many values, relative to it.

        A median's standard error is that of a mean times the root of pi / 2, and the quartiles of
        a normal distribution lie 1.349 standard deviations apart.
        """
        return 1.96 * math.sqrt(math.pi / 2) / 1.349 * self.spread / math.sqrt(count)


class Latency(NamedTuple):
    """Median and 95th percentile of the milliseconds of a pass."""

    p50: float
    p95: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Return the latency that the seconds of at least two passes show."""
        percentiles = statistics.quantiles(seconds, n=20, method="inclusive")
        return cls(1000 * percentiles[9], 1000 * percentiles[18])


@dataclass(frozen=True)
class Turns:
    """Seconds of every pass, in rounds of a turn of the host and one of the reduced model."""

    host: list[list[float]]
    model: list[list[float]]

    @property
    def speed_up(self) -> Quartiles:
        """Time of the host's turn over that of the model's in the same round."""
        rounds = zip(self.host, self.model, strict=True)
        return Quartiles.of([sum(host) / sum(model) for host, model in rounds])


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What `speed` finds.

    Attributes:
        batch_size: Images a pass.
        rounds: How often host and model took turns, warm-up aside.
        host_images_per_second: Quartiles over the rounds.
        images_per_second: The same of the reduced model.
        speed_up: Quartiles over the rounds of the ratio of times in a round; above 1 the reduced
            model is faster.
        host_latency_ms: Milliseconds of a pass over one batch.
        latency_ms: The same of the reduced model.
        host_peak_memory_mb: Most memory that a pass holds at a time, 2^20 bytes, above weights and
            images: what the GPU's allocator counts, or what torch's profiler sees of its CPU
            allocator, without the scratch space that MKL and oneDNN keep for themselves.
        peak_memory_mb: The same of the reduced model.
        tokens: Block -> patch tokens left after its stage, mean over all images.
    """

    batch_size: int
    rounds: int
    host_images_per_second: Quartiles
    images_per_second: Quartiles
    speed_up: Quartiles
    host_latency_ms: Latency
    latency_ms: Latency
    host_peak_memory_mb: float
    peak_memory_mb: float
    tokens: dict[int, float]


def speed(
    model: ReducedVisionTransformer,
    *,
    batch_size: int = 32,
    images: Tensor | None = None,
    rounds: int = 15,
    seconds: float = 30.0,
    compiled: bool = False,
) -> Speed:
    """Measure a reduced model against its host, in inference, where the model is and in its type.

    Args:
        model: A reduced model; it and its host are measured as in evaluation.
        batch_size: Images a pass.
        images: [N, channels, height, width], N at least the batch size: passes go through their
            whole batches in turn. None takes one batch of noise, which is as good for methods
            whose token counts do not depend on the image.
        rounds: How often host and model take turns, at least 7; up to four times as often while
            the speed-up, a median, is uncertain by more than 1 %.
        seconds: Rounds after the seventh are left out once the turns have taken so long.
        compiled: Measure both through `torch.compile`. What was compiled before is forgotten.

    Raises:
        TypeError: `model` is not a reduced model.
        ValueError: There are too few images or rounds.
    """
    if rounds < LEAST_ROUNDS:
        raise ValueError(f"rounds is {rounds}, but must be at least {LEAST_ROUNDS}")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but must be at least 1")
    host = unreduce(model)
    with torch.inference_mode(), _evaluating(model, host):
        batches = _batches(model, images, batch_size)
        forwards: tuple[Forward, Forward] = (host, model)
        if compiled:
            torch.compiler.reset()
            forwards = (torch.compile(host, dynamic=False), torch.compile(model, dynamic=False))
        turns = take_turns(forwards, batches, rounds=rounds, seconds=seconds)
        memory, reduced_memory = (peak_memory(forward, batches[0]) / MIB for forward in forwards)
        tokens = _mean_tokens(model, batches)
    return Speed(
        batch_size=batch_size,
        rounds=len(turns.host),
        host_images_per_second=_images_per_second(turns.host, batch_size),
        images_per_second=_images_per_second(turns.model, batch_size),
        speed_up=turns.speed_up,
        host_latency_ms=Latency.of(list(chain(*turns.host))),
        latency_ms=Latency.of(list(chain(*turns.model))),
        host_peak_memory_mb=memory,
        peak_memory_mb=reduced_memory,
        tokens=tokens,
    )


def take_turns(
    forwards: tuple[Forward, Forward],
    batches: Sequence[Tensor],
    *,
    rounds: int,
    seconds: float,
    clock: Clock = time.perf_counter,
) -> Turns:
    """Run host and model by turns; return how long each pass took.

    Args:
        forwards: Host and model.
        batches: What they take, on their device; the passes of a round take the same ones.
        rounds: Turns of each, see `speed`; the first round, which warms up, is not among them.
        seconds: See `speed`.
        clock: Returns seconds.
    """
    passes = _passes(forwards, batches[0], rounds, clock)
    turns, started = Turns([], []), clock()
    for number in range(-1, MOST_TIMES * rounds):
        if number >= LEAST_ROUNDS and clock() - started > seconds:
            break
        if number >= rounds and turns.speed_up.uncertainty(number) <= UNCERTAIN:
            break
        turn = [batches[(number * passes + i) % len(batches)] for i in range(passes)]
        host, model = ([_timed(run, batch, clock) for batch in turn] for run in forwards)
        if number >= 0:
            turns.host.append(host)
            turns.model.append(model)
    return turns


def _passes(forwards: tuple[Forward, Forward], batch: Tensor, rounds: int, clock: Clock) -> int:
    """Warm up; return the passes a turn has to have for both to fill `TURN_SECONDS`."""
    shortest = min(
        min(_timed(run, batch, clock) for _ in range(WARM_UP_PASSES)) for run in forwards
    )
    fewest = math.ceil(LATENCIES / rounds) if len(batch) == 1 else 1
    return max(fewest, math.ceil(TURN_SECONDS / max(shortest, 1e-6)))


def _timed(forward: Forward, images: Tensor, clock: Clock) -> float:
    """Return how long one forward pass takes, until its result is there."""
    synchronise(images.device)
    start = clock()
    forward(images)
    synchronise(images.device)
    return clock() - start


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(forward: Forward, images: Tensor) -> int:
    """Return the most bytes that a forward pass holds at a time, above what there was before."""
    device = images.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        resident = torch.cuda.memory_allocated(device)
        forward(images)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - resident
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # It reports on stderr that it starts and stops.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as run:
        forward(images)
    events = (event for event in run.profiler.kineto_results.events() if event.name() == "[memory]")
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _images_per_second(turns: Sequence[Sequence[float]], batch_size: int) -> Quartiles:
    return Quartiles.of([batch_size * len(passes) / sum(passes) for passes in turns])


def _batches(
    model: ReducedVisionTransformer, images: Tensor | None, batch_size: int
) -> list[Tensor]:
    """Return whole batches on the model's device and in its type."""
    weight = next(model.parameters())
    if images is None:
        generator = torch.Generator().manual_seed(0)
        size = (batch_size, model.in_chans, *image_size(model))
        images = torch.randn(size, generator=generator)
    if len(images) < batch_size:
        raise ValueError(f"there are {len(images)} images, but must be at least {batch_size}")
    whole = images[: len(images) // batch_size * batch_size]
    return list(whole.to(weight.device, weight.dtype).split(batch_size))


def _mean_tokens(model: ReducedVisionTransformer, batches: Sequence[Tensor]) -> dict[int, float]:
    counts = [model.forward_with_trace(batch)[1].tokens for batch in batches]
    return {
        block: torch.cat([tokens[block] for tokens in counts]).double().mean().item()
        for block in counts[0]
    }


@contextmanager
def _evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models into evaluation mode for a while."""
    modes = {module: module.training for model in models for module in model.modules()}
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
