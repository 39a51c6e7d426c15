"""When two traces make the same decisions, and how many of them low precision has to leave alone.

Without pytest, as `reference_cases`.
"""

import copy

import torch
from reference_cases import load_extras

import reduction

BLOCKS = (3, 6, 9)
RATES = (0.25, 0.7)
METHODS = [name for name in reduction.METHODS if name not in ("deit", "dtem")]
"""DTEM decides by what it learns: untrained, its similarities are nearly ties."""
EXTRAS = {"dynamicvit": "dyvit"}
AS_MADE = ("cropr",)
"""Methods without parameters among the study's arrays."""

FROM_THE_SAME_TOKENS = 0.99
# A little below what was measured in bfloat16 (docs/benchmarks.md): the host's features differ, and
# how products round depends on the device.
WHOLE_MODEL = dict.fromkeys(METHODS, 0.985) | {
    "ats": 0.7,
    "dynamicvit": 0.97,
    "tome": 0.92,
    "atc": 0.82,
    "kmedoids": 0.65,
    "dpcknn": 0.8,
    "pitome": 0.43,
    "tofu": 0.97,
    "ppt": 0.9,
    "mctf": 0.8,
    "diffrate": 0.91,
    "gtp": 0.97,
}


def method_model(method, rate, blocks, host, extras):
    """Return a method's model on a copy of the reference host."""
    model = reduction.reduce(copy.deepcopy(host), method, keep_rate=rate, reduction_loc=blocks)
    if method not in AS_MADE:
        load_extras(extras, model, EXTRAS.get(method, method))
    return model


def alike(trace, other, family):
    """Decisions of `trace`, whether `other` makes them too: a list of bools over all stages."""
    same = []
    for block in trace.stages:
        if family == "soft":
            best, second = trace.weights[block].topk(2, dim=1).values.unbind(dim=1)
            decisive = best > 1.02 * second
            equal = trace.assignment[block] == other.assignment[block]
            same += equal[decisive].tolist()
        elif block in trace.groups:
            equal = first_members(trace.groups[block]) == first_members(other.groups[block])
            same += equal.flatten().tolist()
        else:
            for kept, others in zip(trace.kept[block], other.kept[block], strict=True):
                same += torch.isin(kept[kept >= 0], others).tolist()
    return same


def first_members(groups):
    """For every patch the first patch of its group, [B, N0]: a name that depends on no order."""
    together = groups[:, :, None] == groups[:, None, :]
    return together.int().argmax(dim=2)
