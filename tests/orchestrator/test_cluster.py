"""Where a study runs: live clusters are used, dead ones named, and nothing is waited for."""

import socket

import pytest

from orchestrator.cluster import _given_address
from orchestrator.errors import UserError


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """Return the file in which Ray notes the cluster that this machine belongs to."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    path = tmp_path / "ray" / "ray_current_cluster"
    path.parent.mkdir()
    return path


@pytest.fixture
def live():
    """Return an address at which something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield "{}:{}".format(*server.getsockname())


@pytest.fixture
def dead():
    """Return an address at which nothing listens any more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return "{}:{}".format(*server.getsockname())


@pytest.mark.parametrize("address", [None, "auto"])
def test_the_live_cluster_of_this_machine_is_used(trace, live, address):
    trace.write_text(live)
    assert _given_address(address) == live


def test_without_a_cluster_ray_is_embedded(trace):
    assert _given_address(None) is None


def test_the_trace_of_a_dead_cluster_is_ignored_with_a_word(trace, dead, capsys):
    trace.write_text(dead)
    assert _given_address(None) is None
    assert f"the Ray cluster it names ({dead}) is gone" in capsys.readouterr().err


def test_auto_needs_a_cluster(trace):
    with pytest.raises(UserError, match="--address is 'auto', but this machine belongs to no Ray"):
        _given_address("auto")


def test_a_given_address_has_to_answer(trace, live, dead):
    assert _given_address(live) == live
    with pytest.raises(UserError, match=f"no Ray cluster answers at '{dead}'"):
        _given_address(dead)
    with pytest.raises(UserError, match="it must be `auto` or HOST:PORT"):
        _given_address("somewhere")
