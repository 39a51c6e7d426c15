"""Random numbers that are a function of their arguments alone, equal on every device."""

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 2**64 over the golden ratio, as a signed integer
_MULTIPLIERS = ((30, -4658895280553007687), (27, -7723592293110705685))


def scramble(x: Tensor) -> Tensor:
    """Return int64 x, any shape, mixed to look random over all 64 bits.

    One step of SplitMix64 (Steele et al., OOPSLA 2014), for which integers wrap around.
    """
    x = x + _GOLDEN
    for shift, multiplier in _MULTIPLIERS:
        x = (x ^ _shifted(x, shift)) * multiplier
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift right without copies of the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def scramble_all(*keys: Tensor | int) -> Tensor:
    """Return int64 random numbers for integer keys, which broadcast against each other."""
    mixed = torch.zeros((), dtype=torch.int64, device="cpu")
    for key in keys:
        # Numbers stay on the CPU: other devices take them as they are, without a copy.
        key = key if isinstance(key, Tensor) else torch.tensor(key, device="cpu")
        mixed = scramble(mixed ^ scramble(key))
    return mixed
