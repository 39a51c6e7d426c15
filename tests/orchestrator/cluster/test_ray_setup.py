"""Where a study runs: live clusters are used, dead ones named, and nothing is waited for."""

import os
import socket

import pytest

from orchestrator.cluster.ray_setup import prepare_ray
from orchestrator.errors import UserError


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """Return the file in which Ray notes the cluster that this machine belongs to."""
    monkeypatch.setattr(os, "environ", {"RAY_TMPDIR": str(tmp_path)})
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
    """Return an address at which nothing listens, and that nobody else can take."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield "{}:{}".format(*bound.getsockname())


def test_the_user_s_token_is_used_where_there_is_one(trace, live, tmp_path):
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "token")
    prepare_ray(live)
    assert "RAY_AUTH_MODE" not in os.environ
    (tmp_path / "token").write_text("secret")
    prepare_ray(live)
    assert os.environ["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize("address", [None, "auto"])
def test_the_live_cluster_of_this_machine_is_used(trace, live, address):
    trace.write_text(live)
    assert prepare_ray(address) == live


def test_without_a_cluster_ray_is_embedded(trace):
    assert prepare_ray(None) is None


def test_the_trace_of_a_dead_cluster_is_ignored_with_a_word(trace, dead, capsys):
    trace.write_text(dead)
    assert prepare_ray(None) is None
    assert f"the Ray cluster it names ({dead}) is gone" in capsys.readouterr().err


def test_auto_needs_a_cluster(trace):
    with pytest.raises(UserError, match="--address is 'auto', but this machine belongs to no Ray"):
        prepare_ray("auto")


def test_a_given_address_has_to_answer(trace, live, dead):
    assert prepare_ray(live) == live
    with pytest.raises(UserError, match=f"no Ray cluster answers at '{dead}'"):
        prepare_ray(dead)
    with pytest.raises(UserError, match="it must be `auto` or HOST:PORT"):
        prepare_ray("somewhere")
