"""Batches arrive on the device unchanged; what the device waits for them is what is reported."""

from contextlib import contextmanager

import pytest
import torch

from trainables.loop import device_batches
from trainables.loop.device_batches import DeviceBatches

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CPU = torch.device("cpu")


def as_it_is(batch):
    return batch


def batches(count):
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        yield torch.rand(8, 3, 64, 64, generator=generator), torch.arange(8) + number


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("prefetches", [0, 1, 2])
def test_batches_arrive_in_order_and_unchanged(device, prefetches):
    arrived = DeviceBatches(batches(20), torch.device(device), as_it_is)
    for expected in batches(20):
        for _ in range(prefetches):
            arrived.prefetch()
        batch = next(arrived)
        assert all(tensor.device.type == device for tensor in batch)
        (batch[0] @ batch[0]).sum()  # Work in whose shadow the next batch is copied.
        assert all(torch.equal(a.cpu(), b) for a, b in zip(batch, expected, strict=True))
    for _ in range(2):
        arrived.prefetch()
        with pytest.raises(StopIteration):
            next(arrived)


def test_on_a_cpu_batches_pass_as_they_are():
    loader = list(batches(3))
    drawn = []
    drawing = (drawn.append(n) or batch for n, batch in enumerate(loader))
    arrived = DeviceBatches(drawing, CPU, as_it_is)
    arrived.prefetch()
    assert drawn == []
    for number, batch in enumerate(arrived):
        assert drawn == list(range(number + 1))
        assert all(ours is theirs for ours, theirs in zip(batch, loader[number], strict=True))
        arrived.prefetch()


class Clock:
    """The time on the host."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(device_batches.time, "perf_counter", lambda: self.now)


class Loader:
    """Takes `start` seconds to start and `each` seconds a batch."""

    def __init__(self, clock, *, each, start=0.0, batch=()):
        self.clock, self.start, self.each, self.batch = clock, start, each, batch

    def __iter__(self):
        self.clock.now += self.start
        for seconds in self.each:
            self.clock.now += seconds
            yield self.batch


def test_a_cpu_waits_while_batches_are_made(monkeypatch):
    clock = Clock(monkeypatch)
    arrived = DeviceBatches(Loader(clock, start=5.0, each=[3.0, 2.0, 0.0]), CPU, as_it_is)
    for expected in (8.0, 2.0, 0.0):
        clock.now += 10.0
        next(arrived)
        clock.now += 10.0
        assert arrived.waited() == expected
        assert arrived.waited() == 0.0


class Stream:
    """A queue of work that the device does in order, as soon as it is asked to."""

    def __init__(self, cuda, name):
        self.cuda, self.name, self.free_at = cuda, name, 0.0

    def work(self, seconds):
        self.free_at = max(self.cuda.clock.now, self.free_at) + seconds

    def wait_stream(self, other):
        self.free_at = max(self.free_at, other.free_at)
        self.cuda.log.append(f"{self.name} waits for {other.name}")


class Cuda:
    """What `DeviceBatches` asks of `torch.cuda`, on a device that only keeps time."""

    COPY = 1.0

    def __init__(self, clock):
        self.clock = clock
        self.log: list[str] = []
        self.compute = self.stream_now = Stream(self, "compute")
        cuda = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self, stream):
                self.at = max(cuda.clock.now, stream.free_at)

            def elapsed_time(self, other):
                return (other.at - self.at) * 1000

        class Pinned:
            def to(self, device, non_blocking):
                assert non_blocking
                cuda.stream_now.work(cuda.COPY)
                cuda.log.append(f"copy on {cuda.stream_now.name}")
                return self

            def record_stream(self, stream):
                cuda.log.append(f"memory is kept for {stream.name}")

        self.Event, self.batch = Event, (Pinned(),)

    def Stream(self, device):  # noqa: N802 - the name it stands for
        return Stream(self, "side")

    def current_stream(self, device):
        return self.compute

    @contextmanager
    def stream(self, stream):
        self.stream_now, before = stream, self.stream_now
        yield
        self.stream_now = before


@pytest.fixture
def cuda(monkeypatch):
    cuda = Cuda(Clock(monkeypatch))
    monkeypatch.setattr(device_batches.torch, "cuda", cuda)
    return cuda


def test_on_cuda_a_batch_is_copied_aside_and_waited_for_before_its_use(cuda):
    loader = Loader(cuda.clock, each=[0.0], batch=cuda.batch)
    next(DeviceBatches(loader, torch.device("cuda"), lambda batch: cuda.log.append("finish")))
    assert cuda.log == [
        "copy on side",
        "compute waits for side",
        "memory is kept for compute",
        "finish",
    ]


@pytest.mark.parametrize(
    ("loading", "total"), [(0.0, 3.0), (4.0, 3.0), (8.5, 3.5), (9.5, 4.5), (13.0, 11.0)]
)
def test_cuda_waits_only_where_it_has_nothing_else_to_do(cuda, loading, total):
    """The first batch takes 3 s; later ones are late where they take longer than a step's 9 s."""
    loader = Loader(cuda.clock, each=[2.0, loading, loading], batch=cuda.batch)
    arrived = DeviceBatches(loader, torch.device("cuda"), as_it_is)
    waited = []
    for _ in range(3):
        next(arrived)
        cuda.compute.work(9.0)
        arrived.prefetch()
        cuda.clock.now = max(cuda.clock.now, cuda.compute.free_at)
        waited.append(arrived.waited())
    assert sum(waited) == pytest.approx(total)
    assert cuda.clock.now == pytest.approx(3 * 9.0 + sum(waited))
