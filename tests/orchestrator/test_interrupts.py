"""What signals ask of a launch, and how many of them are one request."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator import interrupts as module
from orchestrator.interrupts import SIGNALS, Interrupts
from trainables.storage.paths import store_path


@pytest.fixture
def now(monkeypatch):
    """Return the time that passes only as tests say."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def interrupts(tmp_path):
    return Interrupts(store_path(str(tmp_path)) / "stop")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_to_save_and_a_later_one_to_stop_at_once(number, interrupts, now, tmp_path):
    with interrupts.handled():
        signal.raise_signal(number)
        assert interrupts.requested
        assert (tmp_path / "stop").exists()
        now[0] += 1.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert not (tmp_path / "stop").exists()


def test_signals_to_the_process_and_to_its_group_are_one_request(interrupts, now):
    """GNU `timeout` sends both; a closing terminal sends several."""
    with interrupts.handled():
        signal.raise_signal(signal.SIGTERM)
        now[0] += 0.9
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        assert interrupts.requested


def test_handlers_are_put_back(interrupts):
    before = [signal.getsignal(number) for number in SIGNALS]
    with interrupts.handled():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_nohup_holds(interrupts):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.handled():
            signal.raise_signal(signal.SIGHUP)
            assert not interrupts.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_than_the_main_one_handles_no_signals(interrupts, tmp_path):
    before = [signal.getsignal(number) for number in SIGNALS]

    def work():
        with interrupts.handled():
            assert [signal.getsignal(number) for number in SIGNALS] == before
            interrupts.stop()
            return (tmp_path / "stop").exists()

    with ThreadPoolExecutor(1) as other:
        assert other.submit(work).result()
