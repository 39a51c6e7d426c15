"""Compare DynamicViT's fused attention with one that keeps its maps for the backward pass.

    python experiments/benchmarks/masked_attention.py --threads 1 --clock cpu

Both compute the same function and gradients (`tests/reduction/test_dynamicvit_training.py`). They
take turns, and a value is the median of their ratios. Memory is what a forward pass keeps for the
backward pass: of one attention, and of a whole DeiT-Tiny in training.

Writes `masked_attention.json` and `masked_attention.md` into the output folder and prints a table.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from unittest import mock

import timm
import torch
from torch import Tensor

import reduction
from experiments.benchmarks.results import (
    CLOCKS,
    Measurement,
    environment,
    line,
    option_parser,
    write,
)
from reduction.attention import policy_attention, policy_softmax
from reduction.model import ReducedVisionTransformer

KEPT = 0.5
"""Share of the tokens that the policy keeps."""
HEAD_DIM = 64
MIB = 2**20

Pass = Callable[[], Tensor]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = parse(arguments)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    torch.manual_seed(0)
    print(line(Measurement.__annotations__), flush=True)
    rows = []
    for row in chain(single(options), whole(options)):
        rows.append(asdict(row))
        print(line(rows[-1].values()), flush=True)
    write(options.out, "masked_attention", rows, environment(options))
    print(f"wrote masked_attention.json and masked_attention.md into {options.out}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = option_parser(
        __doc__, host="deit_tiny_patch16_224", device="cpu", threads=None, repeats=9, clock="wall"
    )
    add = parser.add_argument
    add("--images", type=int, nargs="+", default=[8, 32])
    add("--heads", type=int, nargs="+", default=[3, 6], help="as many numbers")
    add("--tokens", type=int, default=197)
    return parser.parse_args(arguments)


def maps(queries: Tensor, keys: Tensor, values: Tensor, policy: Tensor, scale: float) -> Tensor:
    """Return what `policy_attention` does, by way of whole maps."""
    return policy_softmax(queries @ keys.mT * scale, policy).to(queries.dtype) @ values


def single(options: argparse.Namespace) -> Iterator[Measurement]:
    """Compare time and memory of one attention at each size."""
    for images, heads in zip(options.images, options.heads, strict=True):
        shape = (3, images, heads, options.tokens, HEAD_DIM)
        inputs = torch.randn(shape, device=options.device, requires_grad=True)
        policy = (torch.rand(shape[1], shape[3], device=options.device) < KEPT).float()
        given = (*inputs, policy, HEAD_DIM**-0.5)
        fused, plain = partial(policy_attention, *given), partial(maps, *given)
        size = f"{images} images, {heads} heads"
        pairs = [(timed(fused, options), timed(plain, options)) for _ in range(options.repeats + 1)]
        times, others = zip(*pairs[1:], strict=True)  # The first turn warms up.
        yield Measurement(
            measured=f"time of {size}, over that with maps",
            value=statistics.median(own / other for own, other in pairs[1:]),
            target="at most 1",
            details=f"{1e3 * statistics.median(times):.1f} ms, "
            f"with maps {1e3 * statistics.median(others):.1f} ms",
        )
        yield compared(f"memory of {size}, over that with maps", kept(fused), kept(plain))


def whole(options: argparse.Namespace) -> Iterator[Measurement]:
    """Compare the memory of a whole model's forward pass in training."""
    host = timm.create_model(options.host)
    size = host.patch_embed.img_size
    images = torch.randn(options.images[0], 3, *size, device=options.device)
    plain_host = kept(partial(host.to(options.device).train(), images))
    model = reduction.reduce(host, "dynamicvit", keep_rate=KEPT).to(options.device).train()
    with mock.patch.object(reduction.attention, "policy_attention", maps):
        with_maps = kept(partial(logits_of, model, images))
    fused = kept(partial(logits_of, model, images))
    what = f"memory of {options.host}, {len(images)} images, over that with maps"
    row = compared(what, fused, with_maps)
    yield replace(row, details=f"{row.details}; its host {plain_host / MIB:.1f} MiB")


def logits_of(model: ReducedVisionTransformer, images: Tensor) -> Tensor:
    """Return the logits of a training pass with its trace, in which decisions are learnt."""
    return model.forward_with_trace(images)[0]


def timed(forward: Pass, options: argparse.Namespace) -> float:
    """Return the seconds of a forward and backward pass."""
    clock = CLOCKS[options.clock]
    start = clock()
    forward().sum().backward()
    if options.device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def kept(forward: Pass) -> int:
    """Return the bytes that a forward pass keeps for its backward pass, each storage once."""
    sizes: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = (storage.nbytes(), tensor)  # Lives as long as this.
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(size for size, _ in sizes.values())


def compared(measured: str, own: int, other: int) -> Measurement:
    """Return the row of two sizes in bytes."""
    return Measurement(
        measured=measured,
        value=own / other,
        target="at most 1",
        details=f"{own / MIB:.1f} MiB, with maps {other / MIB:.1f} MiB",
    )


if __name__ == "__main__":
    main()
