"""`torch.compile` for a training pass, and going on without it where it fails."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")

BACKEND = "inductor"
"""Of `torch.compile`."""
UNCOMPILED = "trains without being compiled, more slowly"
"""How a line begins that says so; the reason follows."""


class Compiling:
    """Compiles a module for a training, in place: its parameters keep their names.

    Args:
        module: Is compiled when it is first called.
        device: Where it computes.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module = module
        self._device = device
        self._proved = False
        module.compile(backend=BACKEND, dynamic=False)

    def attempt(self, passes: Callable[[], T], tell: Callable[[str], None]) -> T:
        """Do a forward and backward pass; the first time, do it again uncompiled if that fails.

        Args:
            passes: Calls the module; there are no gradients yet when it is called first.
            tell: Told in a line that the training goes on without compiling, and why.
        """
        if self._proved:
            return passes()
        self._proved, states = True, self._random_states()
        # What it raises depends on backend and version: only another try tells whose fault it is.
        try:
            return passes()
        except Exception as error:
            tell(f"{UNCOMPILED}: {_first_line(error)}")
        # As if it had never been compiled.
        self._module._compiled_call_impl = None
        self._module.zero_grad()
        self._restore(states)
        return passes()

    def _random_states(self) -> list[torch.Tensor]:
        cuda = self._device.type == "cuda"
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(self._device)] if cuda else [])]

    def _restore(self, states: list[torch.Tensor]) -> None:
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, self._device)


def _first_line(error: Exception) -> str:
    error = getattr(error, "inner_exception", error)  # What a backend has failed with.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
