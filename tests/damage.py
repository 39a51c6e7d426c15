"""Damage to the files of a store, as disks and power cuts do it."""

import random
from pathlib import Path


def tear(path: Path, draw: random.Random) -> None:
    """Cut a file off at a random place, but for a lone newline at its end."""
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data) - 1)])


def flip_a_bit(path: Path, draw: random.Random) -> None:
    """Turn one random bit of a file around."""
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def damage(path: Path, draw: random.Random) -> str:
    """Damage a file that is not empty in one of these ways; return which."""
    way = draw.choice([tear, flip_a_bit])
    way(path, draw)
    return way.__name__.replace("_", " ")
