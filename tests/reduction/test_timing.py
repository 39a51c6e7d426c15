"""The statistics of timings by turns, on a clock of its own, and a measurement of small models."""

import numpy as np
import pytest
import timm
import torch

import reduction
from reduction.timing import Latency, Quartiles, Turns, peak_memory, take_turns

TAKES = {"host": 0.3, "method": 0.1}


class MadeUpMachine:
    """A clock and two passes that move it on."""

    def __init__(self, takes=TAKES):
        self.now = 0.0
        self.takes = takes
        self.order = []

    def clock(self):
        return self.now

    def forward(self, name):
        def run(batch):
            self.order.append((name, int(batch[0])))
            self.now += self.takes[name]

        return run

    def turns(self, batches=1, **kwargs):
        images = [torch.full((2,), number) for number in range(batches)]
        forwards = self.forward("host"), self.forward("method")
        return take_turns(forwards, images, **{"rounds": 7, "seconds": 1e9} | kwargs)


@pytest.fixture
def machine():
    return MadeUpMachine()


def test_quartiles_are_those_of_numpy():
    values = np.random.default_rng(0).gamma(2, size=11)
    assert Quartiles.of(list(values)) == pytest.approx(np.percentile(values, [25, 50, 75]))
    milliseconds = np.percentile(1000 * values, [50, 95])
    assert Latency.of(list(values)) == pytest.approx(milliseconds)


def test_spread_is_relative_to_the_median():
    assert Quartiles(9, 10, 12).spread == pytest.approx(0.3)


def test_speed_up_is_the_median_of_the_rounds_own_ratios():
    # Both become slower from round to round: the ratio of the medians would be 2.
    turns = Turns(host=[[1, 1], [2, 2], [9, 9]], model=[[1, 1], [1, 1], [3, 3]])
    assert turns.speed_up == pytest.approx((1.5, 2, 2.5))


def test_host_and_method_take_turns_on_the_same_batches(machine):
    machine.takes = {"host": 0.012, "method": 0.011}
    turns = machine.turns(batches=3, clock=machine.clock)
    assert {len(passes) for passes in turns.host + turns.model} == {2}  # They fill 0.02 s.
    warm_up, rounds = machine.order[:6], machine.order[6:]
    assert {name for name, _ in warm_up} == {"host", "method"}
    for start in range(0, len(rounds), 4):
        host, method = rounds[start : start + 2], rounds[start + 2 : start + 4]
        assert {name for name, _ in host} == {"host"}
        assert {name for name, _ in method} == {"method"}
        assert [batch for _, batch in host] == [batch for _, batch in method]
    assert {batch for _, batch in rounds} == {0, 1, 2}


def test_the_first_round_does_not_count(machine):
    turns = machine.turns(clock=machine.clock)
    assert len(turns.host) == len(turns.model) == 7
    assert len(machine.order) == 2 * (3 + 1 + 7)
    assert turns.host == [[pytest.approx(0.3)]] * 7
    assert turns.model == [[pytest.approx(0.1)]] * 7


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 7), (4, 10), (1e9, 30)])
def test_time_ends_the_rounds_after_the_seventh(machine, seconds, rounds):
    turns = machine.turns(clock=machine.clock, rounds=30, seconds=seconds)
    assert len(turns.host) == len(turns.model) == rounds


def test_rounds_go_on_while_the_speed_up_is_uncertain():
    settled = {}
    for noise in (0.001, 0.03, 0.5):
        machine = MadeUpMachine()
        random = np.random.default_rng(0)

        def forward(name, machine=machine, random=random, noise=noise):
            def run(batch):
                machine.now += TAKES[name] * np.exp(random.normal(0, noise))

            return run

        forwards = forward("host"), forward("method")
        turns = take_turns(forwards, [torch.zeros(2)], rounds=9, seconds=1e9, clock=machine.clock)
        count = settled[noise] = len(turns.host)
        low, median, high = turns.speed_up
        uncertainty = 1.821 * (high - low) / np.sqrt(count) / median
        assert turns.speed_up.uncertainty(count) == pytest.approx(uncertainty, rel=1e-3)
        assert (uncertainty <= 0.01) == (count < 36)
    assert settled[0.001] == 9 < settled[0.03] < settled[0.5] == 36


def test_the_interval_of_a_median_covers():
    draws = np.random.default_rng(0).normal(10, 0.5, size=(2000, 31))
    found = [Quartiles.of(list(values)) for values in draws]
    covered = [abs(of.median - 10) <= of.uncertainty(31) * of.median for of in found]
    assert 0.9 < np.mean(covered) < 0.97


def test_single_images_are_timed_often_enough_for_a_percentile(machine):
    one = [torch.zeros(1)]
    forwards = machine.forward("host"), machine.forward("method")
    turns = take_turns(forwards, one, rounds=7, seconds=1e9, clock=machine.clock)
    assert sum(map(len, turns.model)) >= 20


def test_peak_memory_is_the_most_held_at_a_time():
    images = torch.zeros(256, 1024)  # 1 MiB

    def forward(x):
        two = (x + 1) + 2  # both sums are held while the second is made
        return two * 3

    assert peak_memory(forward, images) == pytest.approx(2 * 2**20, abs=100)


def test_a_model_is_measured_against_its_host(small_host, device):
    model = reduction.reduce(small_host.to(device), "topk", keep_rate=0.5, reduction_loc=(1, 2))
    model.train()
    found = reduction.speed(model, batch_size=2, rounds=7)
    assert model.training
    assert model.blocks[0].attn.training
    assert found.batch_size == 2
    assert 7 <= found.rounds <= 28
    assert found.tokens == {1: 17, 2: 8}
    for quartiles in (found.host_images_per_second, found.images_per_second, found.speed_up):
        assert 0 < quartiles.low <= quartiles.median <= quartiles.high
    assert 0 < found.latency_ms.p50 <= found.latency_ms.p95
    assert 0 < found.peak_memory_mb <= found.host_peak_memory_mb


def test_own_images_decide_how_many_tokens_ats_keeps(small_host, small_images):
    model = reduction.reduce(small_host, "ats", keep_rate=0.5, reduction_loc=(1, 2))
    _, trace = model.forward_with_trace(small_images[:2])
    found = reduction.speed(model, batch_size=1, images=small_images[:2])
    kept = {block: counts.double().mean().item() for block, counts in trace.tokens.items()}
    assert found.tokens == pytest.approx(kept)


def test_a_model_is_measured_in_its_own_type(small_host):
    model = reduction.reduce(small_host.bfloat16(), "tome", keep_rate=0.5, reduction_loc=(1, 2))
    types = set()
    model.head.register_forward_pre_hook(lambda _, inputs: types.add(inputs[0].dtype))
    reduction.speed(model, batch_size=1)
    assert types == {torch.bfloat16}


def test_both_are_compiled(small_host, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model, **_: compiled.append(model) or model)
    model = reduction.reduce(small_host, "topk", keep_rate=0.5, reduction_loc=(1, 2))
    reduction.speed(model, batch_size=1, compiled=True)
    host, reduced = compiled
    assert reduced is model
    assert type(host) is timm.models.VisionTransformer


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"rounds": 6}, "rounds is 6, but must be at least 7"),
        ({"batch_size": 0}, "batch_size is 0, but must be at least 1"),
        ({"images": torch.zeros(3, 3, 20, 28)}, "there are 3 images, but must be at least 32"),
    ],
)
def test_what_cannot_be_measured(small_host, arguments, error):
    model = reduction.reduce(small_host, "topk", keep_rate=0.5, reduction_loc=(1, 2))
    with pytest.raises(ValueError, match=error):
        reduction.speed(model, **arguments)


def test_a_plain_host_is_refused(small_host):
    with pytest.raises(TypeError, match="must be a reduced model"):
        reduction.speed(small_host)
