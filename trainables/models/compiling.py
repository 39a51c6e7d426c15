"""`torch.compile` for the passes over a model, and going on without it where it fails."""

from collections.abc import Callable
from typing import Self, TypeVar

import torch
from torch import nn

from reduction.model import ReducedVisionTransformer
from trainables.cell.cell import Cell
from trainables.workers import Workers

T = TypeVar("T")

BACKEND = "inductor"
"""Of `torch.compile`."""


class Compiling:
    """Compiles modules in place, so that their parameters keep their names, until one fails.

    Args:
        does: What is done through the modules, as a line says it: trains, evaluates.
        tell: Told in a line, once, that this goes on without compiling, and why.
        on: Whether to compile at all.
    """

    def __init__(self, does: str, tell: Callable[[str], None], *, on: bool = True) -> None:
        self._does = does
        self._tell = tell
        self._modules: list[nn.Module] = []
        self._proved = False
        self.on = on
        """Whether modules are compiled: it was asked for and has not failed."""

    @classmethod
    def of(
        cls, cell: Cell, model: ReducedVisionTransformer, does: str, tell: Callable[[str], None]
    ) -> Self:
        """Return what compiles the passes over a cell's model, as far as its recipe says so.

        Nothing that was compiled in this process before, for another cell, is kept: torch would
        stop compiling after a few, and not say so.
        """
        compiling = cls(does, tell, on=cell.recipe.compile)
        if compiling.on:
            torch.compiler.reset()
            if any(stage.pads for stage in model.stages):  # Each length would be compiled anew.
                compiling.give_up(f"{cell.method} keeps another number of tokens in each batch")
        return compiling

    def add(self, module: nn.Module) -> None:
        """Compile a module when it is first called, unless compiling is off."""
        if self.on:
            module.compile(backend=BACKEND, dynamic=False)
            self._modules.append(module)

    def attempt(self, forward: Callable[[], T]) -> T:
        """Do a forward pass through a module; do it again uncompiled if that fails."""
        if not self.on:
            return forward()
        # What it raises depends on backend and version: only another try tells whose fault it is.
        try:
            return forward()
        except Exception as error:
            self.give_up(_first_line(error))
        return forward()

    def prove(self, passes: Callable[[], object], device: torch.device, ranks: Workers) -> None:
        """Try a forward and backward pass the first time, and give up if it fails on some rank.

        It leaves no trace but what is compiled: the pass that counts has still to be done.

        Args:
            passes: Calls the modules, and waits for no other rank. There are no gradients yet.
            device: Where it computes.
            ranks: All of them call this together.
        """
        if self._proved or not self.on:
            return
        self._proved, states, reason = True, _random_states(device), ""
        try:
            passes()
        except Exception as error:
            reason = _first_line(error)
        for module in self._modules:
            module.zero_grad()
        _restore(states, device)
        # A rank alone could not go back once the others wait for its gradients.
        if reasons := [found for found in ranks.gathered(reason) if found]:
            self.give_up(reasons[0])

    def give_up(self, reason: str) -> None:
        """Compile nothing any more."""
        self.on = False
        self._tell(f"{self._does} without being compiled, more slowly: {reason}")
        for module in self._modules:
            module._compiled_call_impl = None


def _random_states(device: torch.device) -> list[torch.Tensor]:
    cuda = device.type == "cuda"
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if cuda else [])]


def _restore(states: list[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)


def _first_line(error: Exception) -> str:
    error = getattr(error, "inner_exception", error)  # What a backend has failed with.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
