"""Where a study runs: live clusters are used, dead ones named, and nothing is waited for."""

import errno
import os
import socket
from pathlib import Path

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


def test_a_user_whom_the_machine_does_not_know_has_a_home(trace, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    prepare_ray("local")
    assert os.environ["HOME"] == "/"


@pytest.mark.parametrize("home", ["there", "missing"])
def test_a_user_without_a_home_has_a_token_of_the_launch_s_own(trace, tmp_path, home):
    (tmp_path / "there").mkdir()
    os.environ["HOME"] = str(tmp_path / home)
    assert prepare_ray("local") is None
    assert ("RAY_AUTH_TOKEN" in os.environ) is (home != "there")
    token = os.environ.get("RAY_AUTH_TOKEN")
    prepare_ray("local")
    assert os.environ.get("RAY_AUTH_TOKEN") == token


@pytest.mark.parametrize("address", [None, "auto"])
def test_the_live_cluster_of_this_machine_is_used(trace, live, address):
    trace.write_text(live)
    assert prepare_ray(address) == live


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.ENETUNREACH])
def test_a_machine_that_does_not_reach_itself_is_refused_in_one_line(trace, monkeypatch, number):
    def fail(*unused, **options):
        raise OSError(number, os.strerror(number))

    is_bound = number == errno.ENETUNREACH
    monkeypatch.setattr(socket, "create_connection" if is_bound else "create_server", fail)
    with pytest.raises(UserError, match="127.0.0.1, which does not work here, .*ip link set lo"):
        prepare_ray("local")


def test_without_a_cluster_ray_is_embedded(trace):
    assert prepare_ray(None) is None


def test_the_trace_of_a_dead_cluster_is_ignored_with_a_word(trace, dead, capsys):
    trace.write_text(dead)
    assert prepare_ray(None) is None
    assert f"the Ray cluster that it names ({dead}) is gone" in capsys.readouterr().err


def test_auto_needs_a_cluster(trace):
    with pytest.raises(UserError, match="--address is 'auto', but this machine belongs to no Ray"):
        prepare_ray("auto")


def test_a_given_address_has_to_answer(trace, live, dead):
    assert prepare_ray(live) == live
    with pytest.raises(UserError, match=f"no Ray cluster answers at '{dead}'"):
        prepare_ray(dead)
    with pytest.raises(UserError, match="it must be `auto`, `local` or HOST:PORT"):
        prepare_ray("somewhere")


def test_an_empty_address_is_as_none(trace, live):
    os.environ["RAY_ADDRESS"] = ""
    assert prepare_ray(None) is None
    assert prepare_ray("") is None
    trace.write_text(live)
    assert prepare_ray(None) == live


def test_local_embeds_a_ray_whatever_cluster_there_is(trace, live):
    trace.write_text(live)
    assert prepare_ray("local") is None
    os.environ["RAY_ADDRESS"] = "local"
    assert prepare_ray(None) is None
    assert prepare_ray("auto") == live


@pytest.mark.parametrize(
    "refused", [PermissionError("another user's"), IsADirectoryError("a folder")]
)
def test_a_trace_that_cannot_be_read_is_not_this_user_s(trace, live, monkeypatch, refused):
    trace.write_text(live)

    def read_text(self, **unused):
        raise refused

    monkeypatch.setattr(Path, "read_text", read_text)
    assert prepare_ray(None) is None
    with pytest.raises(UserError, match="this machine belongs to no Ray cluster"):
        prepare_ray("auto")


def test_a_trace_that_is_no_text_names_no_cluster(trace, capsys):
    trace.write_bytes(b"\xff\xfe")
    assert prepare_ray(None) is None
    assert "is gone" in capsys.readouterr().err


def test_a_client_s_address_is_refused_with_what_to_do_instead(trace):
    with pytest.raises(UserError) as refused:
        prepare_ray("ray://head:10001")
    assert "\n" not in str(refused.value)
    assert "'ray://head:10001' is the address of a Ray Client server" in str(refused.value)
    assert "give HOST:PORT of the cluster's head" in str(refused.value)
    assert "ray job submit --address http://HOST:8265 -- tokensweep run" in str(refused.value)
