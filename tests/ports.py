"""Ports for servers that have to be told one."""

import random
import socket
from contextlib import suppress
from pathlib import Path


def free_ports(count: int) -> list[int]:
    """Return ports of this machine at which nothing listens.

    They lie below those that the kernel gives away by itself: nobody is given one of them between
    this look and the start of the server.
    """
    first_given_away = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(first_given_away // 2, first_given_away)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return list(found)


def listens(port: int) -> bool:
    """Return whether something listens at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
