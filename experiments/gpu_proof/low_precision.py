"""Decisions under autocast against those in float32, of the reference images and host."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import reduction
from experiments.gpu_proof.findings import Finding
from experiments.gpu_proof.workplace import Workplace, import_tests
from reduction.model import ReducedVisionTransformer
from reduction.trace import ReductionTrace

SHORT = ("topk", "atc")
"""Methods of a rehearsal."""


def prove(place: Workplace, job: str) -> Iterator[Finding]:
    """Compare every method's decisions, given the same tokens and of the whole model."""
    import_tests()
    cases, decisions = (import_module(name) for name in ("reference_cases", "decisions"))
    comparison = _Comparison(cases, decisions, place)
    types = [torch.bfloat16] if place.rehearses else [torch.bfloat16, torch.float16]
    for dtype in types:
        for method in SHORT if place.rehearses else decisions.METHODS:
            yield comparison.of_the_same_tokens(method, dtype)
            yield comparison.of_the_whole_model(method, dtype)


class _Comparison:
    def __init__(self, cases: Any, decisions: Any, place: Workplace) -> None:
        self._decisions, self._device = decisions, torch.device(place.device)
        self._host = cases.reference_host()
        self._extras = cases.tensors("extras_A.npz")
        self._images = cases.tensors("images_A.npz")["images"].float().to(self._device)
        self._rates = decisions.RATES

    def of_the_same_tokens(self, method: str, dtype: torch.dtype) -> Finding:
        """Run only the block that reduces in low precision."""
        places = [(block,) for block in self._decisions.BLOCKS]
        same = [
            each
            for rate in self._rates
            for blocks in places
            for each in self._same(method, rate, blocks, dtype, only_reducing=True)
        ]
        least = self._decisions.FROM_THE_SAME_TOKENS
        return _finding(f"{method}, {_name(dtype)}, same tokens", same, least)

    def of_the_whole_model(self, method: str, dtype: torch.dtype) -> Finding:
        """Run everything in low precision."""
        same = [
            each
            for rate in self._rates
            for each in self._same(method, rate, self._decisions.BLOCKS, dtype, only_reducing=False)
        ]
        least = self._decisions.WHOLE_MODEL[method]
        return _finding(f"{method}, {_name(dtype)}, whole model", same, least)

    def _same(
        self,
        method: str,
        rate: float,
        blocks: tuple[int, ...],
        dtype: torch.dtype,
        *,
        only_reducing: bool,
    ) -> list[bool]:
        model = self._decisions.method_model(method, rate, blocks, self._host, self._extras)
        model.to(self._device)
        precise = _trace(model, self._images)
        if only_reducing:
            with _autocast_where_it_reduces(self._device.type, dtype):
                low = _trace(model, self._images)
        else:
            with torch.autocast(self._device.type, dtype=dtype):
                low = _trace(model, self._images)
        found: list[bool] = self._decisions.alike(precise, low, reduction.METHODS[method].family)
        return found


@torch.no_grad()
def _trace(model: ReducedVisionTransformer, images: Tensor) -> ReductionTrace:
    return model.forward_with_trace(images, weights=True)[1]


def _autocast_where_it_reduces(kind: str, dtype: torch.dtype) -> Any:
    run_block = ReducedVisionTransformer._run_block

    def run(self: Any, block: Any, stage: Any, tokens: Any, following: Any) -> Any:
        with torch.autocast(kind, dtype=dtype, enabled=stage is not None):
            return run_block(self, block, stage, tokens, following)

    return mock.patch.object(ReducedVisionTransformer, "_run_block", run)


def _finding(what: str, same: list[bool], least: float) -> Finding:
    share = sum(same) / len(same)
    found = f"{share:.3f} of {len(same)} decisions are the same, at least {least}"
    return Finding(what=what, passed=share >= least, found=found, value=share)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
