"""Ports for servers that have to be told one."""

import os
import random
import socket
from contextlib import suppress
from pathlib import Path


def free_ports(count: int) -> list[int]:
    """Return ports of this machine at which nothing listens.

    They lie below those that the kernel gives away by itself, and other processes of the same test
    run choose among others: nobody is given one of them between this look and the server's start.
    """
    first_given_away = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ours = range(first_given_away // 2 + process, first_given_away, processes)
    found: set[int] = set()
    while len(found) < count:
        port = random.choice(ours)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return list(found)


def listens(port: int) -> bool:
    """Return whether something listens at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
