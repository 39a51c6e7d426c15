"""Measure how much of the work that token reduction saves becomes speed and memory.

    python experiments/benchmarks/speed.py --threads 2

Weights and images are random and seeded; images are on the device before the clock starts. Host
and method take turns, so that what else the machine does meets both alike:

- speed-up: median over the repeats of (time of the host / time of the method), the host's time
  being the mean of its runs just before and just after the method's;
- work: multiply-accumulates of the method over the host's, from the tokens that were really left;
- efficiency: speed-up times work, 1 where all work saved is time saved;
- memory: the most that a forward pass holds at a time, weights and images aside. On CUDA what the
  allocator counts, else what torch's profiler sees of its CPU allocator (not the scratch space
  that MKL and oneDNN keep for themselves).

On a machine that others use, too, take one thread and the clock `cpu`: where nothing else runs, the
time of one thread is the time on the wall.

`deit` is the host as `reduction` runs it, against timm's own. Writes `speed.json`, `speed.md` and
`speed.html` into the output folder and prints the table.
"""

import argparse
import itertools
import operator
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import timm
import torch
from torch import Tensor, nn

import reduction
from experiments.benchmarks.results import CLOCKS, environment, line, option_parser, write
from reduction.timing import MIB, peak_memory, synchronise

if TYPE_CHECKING:
    import plotly.graph_objects as go

Forward = Callable[[Tensor], Tensor]
Clock = Callable[[], float]
BASELINE = "deit"


@dataclass(frozen=True, kw_only=True)
class SpeedRow:
    """One method at one keep rate against the plain host."""

    method: str
    keep_rate: float
    tokens: list[float]
    """Patch tokens left after each stage, mean over the images."""
    host_images_per_second: float
    images_per_second: float
    speed_up: float
    work: float
    """Multiply-accumulates of the method over the host's."""
    efficiency: float
    host_memory_mib: float
    memory_mib: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = parse(arguments)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    torch.manual_seed(options.seed)
    host = timm.create_model(options.host).eval().to(options.device, getattr(torch, options.dtype))
    images = torch.randn(options.batch_size, host.in_chans, *host.patch_embed.img_size)
    images = images.to(next(host.parameters())).to(memory_format=torch.channels_last)
    rows = []
    with torch.inference_mode():
        for method in options.methods:
            for rate in [1.0] if method == BASELINE else options.keep_rates:
                rows.append(measure(host, images, method, rate, options))
                print(line(asdict(rows[-1]).values()), flush=True)
    write(options.out, "speed", [asdict(row) for row in rows], machine(options))
    plot(rows).write_html(options.out / "speed.html")
    print(f"wrote speed.json, speed.md and speed.html into {options.out}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = option_parser(
        __doc__,
        device="cpu",
        batch_size=32,
        host="deit_small_patch16_224",
        threads=None,
        repeats=7,
        clock="wall",
    )
    add = parser.add_argument
    add("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    add("--methods", nargs="+", default=list(reduction.METHODS), choices=list(reduction.METHODS))
    add("--keep-rates", type=float, nargs="+", default=[0.25, 0.5, 0.7, 0.9])
    add("--compile", action="store_true", help="compile host and methods alike")
    add("--graph", action="store_true", help="replay both as CUDA graphs (methods of fixed budget)")
    add("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.graph:
        options.methods = [name for name in options.methods if reduction.METHODS[name].fixed_budget]
    if options.clock == "cpu" and options.device != "cpu":
        parser.error(f"--clock is 'cpu', but must be 'wall' with --device {options.device}")
    return options


def measure(
    host: nn.Module, images: Tensor, method: str, keep_rate: float, options: argparse.Namespace
) -> SpeedRow:
    """Measure one method at one keep rate, with the host in between."""
    torch.manual_seed(options.seed)
    model = reduction.reduce(host, method, keep_rate=keep_rate)
    _, trace = model.forward_with_trace(images)
    work = reduction.flops(model, trace.tokens).macs / reduction.flops(host).macs
    forwards: tuple[Forward, Forward] = (host, model)
    if options.compile:
        torch.compiler.reset()
        forwards = (torch.compile(host, dynamic=False), torch.compile(model, dynamic=False))
    if options.graph:
        forwards = (captured(forwards[0], images), captured(forwards[1], images))
    hosts, reduced = take_turns(
        forwards, images, repeats=options.repeats, clock=CLOCKS[options.clock]
    )
    # A graph's memory is its own, taken when it was captured.
    memory, reduced_memory = (peak_memory(forward, images) / MIB for forward in (host, model))
    around = [(before + after) / 2 for before, after in itertools.pairwise(hosts)]
    speed_up = statistics.median(map(operator.truediv, around, reduced))
    return SpeedRow(
        method=method,
        keep_rate=keep_rate,
        tokens=[round(counts.double().mean().item(), 1) for counts in trace.tokens.values()],
        host_images_per_second=len(images) / statistics.median(hosts),
        images_per_second=len(images) / statistics.median(reduced),
        speed_up=speed_up,
        work=work,
        efficiency=speed_up * work,
        host_memory_mib=memory,
        memory_mib=reduced_memory,
    )


def captured(forward: Forward, images: Tensor) -> Forward:
    """Return a function that replays the pass over these `images` as a CUDA graph."""
    for _ in range(3):  # what compiles or allocates at first must not be captured
        forward(images)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = forward(images)

    def replay(_: Tensor) -> Tensor:
        graph.replay()
        return logits

    return replay


def take_turns(
    forwards: tuple[Forward, Forward], images: Tensor, *, repeats: int, clock: Clock
) -> tuple[list[float], list[float]]:
    """Return seconds of host and method by turns, the host first and last."""
    host, model = forwards
    for warm_up in forwards:
        seconds(warm_up, images, clock)
    hosts, reduced = [seconds(host, images, clock)], []
    for _ in range(repeats):
        reduced.append(seconds(model, images, clock))
        hosts.append(seconds(host, images, clock))
    return hosts, reduced


def seconds(forward: Forward, images: Tensor, clock: Clock) -> float:
    """Return how long one forward pass takes."""
    synchronise(images.device)
    start = clock()
    forward(images)
    synchronise(images.device)
    return clock() - start


def machine(options: argparse.Namespace) -> dict[str, object]:
    """Return what the numbers depend on."""
    on_gpu = torch.device(options.device).type == "cuda"
    name = torch.cuda.get_device_name(options.device) if on_gpu else platform.machine()
    return environment(options) | {"device_name": name}


def plot(rows: list[SpeedRow]) -> "go.Figure":
    """Draw the speed-up over the work saved; on the diagonal all work saved is time saved."""
    import plotly.graph_objects as go  # To measure, it need not be installed.

    figure = go.Figure()
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        figure.add_scatter(
            x=[1 / row.work for row in own],
            y=[row.speed_up for row in own],
            text=[f"keep rate {row.keep_rate:g}" for row in own],
            name=method,
            mode="lines+markers",
        )
    limit = max(1 / row.work for row in rows)
    figure.add_scatter(x=[1, limit], y=[1, limit], name="ideal", line={"dash": "dot"})
    return figure.update_layout(xaxis_title="host's work / method's", yaxis_title="speed-up")


if __name__ == "__main__":
    main()
