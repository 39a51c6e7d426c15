"""Which arrays of the published study and of the newer methods there are, and how each is made.

Without pytest, so that `experiments/gpu_proof` can look at them on a machine that has none.
"""

import copy
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch

import reduction

GOLDENS = Path(__file__).parent / "data" / "goldens"


def load(name):
    with np.load(GOLDENS / name) as archive:
        return {key: archive[key] for key in archive.files}


def tensors(name):
    return {key: torch.from_numpy(value) for key, value in load(name).items()}


def reference_host():
    host = timm.models.VisionTransformer(
        embed_dim=48, depth=12, num_heads=3, num_classes=10, weight_init="skip"
    )
    host.load_state_dict(tensors("backbone_A.npz"))
    return host.eval()


def load_extras(extras, model, name):
    """Give a model's stages the parameters of that name among the arrays."""
    for index, stage in enumerate(model.stages):
        for key, parameter in stage.named_parameters():
            value = extras[f"{name}.stage{index}.{key}"]
            parameter.data = value[: parameter.shape[0]].clone()


RATES = (0.25, 0.7)


class Case(NamedTuple):
    reference: str
    """Name in the reference arrays."""
    method: str
    extras: str = ""
    """Name of the method's parameters in the reference arrays."""
    rates: tuple[float | None, ...] = RATES
    options: dict = {}  # noqa: RUF012


METHOD_CASES = [
    Case("topk", "topk"),
    Case("evit", "evit"),
    Case("ats", "ats"),
    Case("dyvit", "dynamicvit", "dyvit"),
    Case("tome", "tome"),
    Case("kmedoids", "kmedoids"),
    Case("kmedoids_eq", "kmedoids", options={"equal_weight": True}),
    Case("dpcknn", "dpcknn", "dpcknn"),
    Case("dpcknn_eq", "dpcknn", options={"equal_weight": True}),
    Case("sit", "sit", "sit"),
    Case("patchmerger", "patchmerger", "patchmerger"),
    Case("sinkhorn", "sinkhorn", "sinkhorn"),
    *(Case(f"heuristic_{norm}", norm) for norm in ("l1", "l2", "linf")),
    *(
        Case(f"heuristic_{norm}_contig", norm, rates=(None,), options={"schedule": "linear"})
        for norm in ("l1", "l2", "linf")
    ),
]
RUNS = [(case, rate) for case in METHOD_CASES for rate in case.rates]


def prefix(case, rate):
    return f"{case.reference}/{'' if rate is None else f'kr{rate:.2f}/'}loc3-6-9"


def study_model(case, rate, host, arrays, extras):
    """Return the model of a case on a copy of the host."""
    rate = 1.0 if rate is None else rate
    model = reduction.reduce(copy.deepcopy(host), case.method, keep_rate=rate, **case.options)
    load_extras(extras, model, case.extras)
    for stage, first in zip(model.stages, arrays.get("init_index", ()), strict=False):
        stage.first_token = lambda count, first=int(first): first  # the study's own draw
    return model


def arrays_of(name, arrays):
    """Return the arrays of a case by the rest of their names."""
    start = f"{name}/"
    return {
        key.removeprefix(start): array for key, array in arrays.items() if key.startswith(start)
    }


STUDY_RATES = (0.5, 0.7, 0.9)


class NewerCase(NamedTuple):
    name: str
    """In the reference arrays; the method's own name comes first."""
    schedule: dict[str, Any]
    options: dict[str, Any] = {}  # noqa: RUF012

    @property
    def method(self):
        return self.name.split("/")[0]


def study(method, **options):
    return [
        NewerCase(f"{method}/kr{rate:.2f}/loc3-6-9", {"keep_rate": rate}, options)
        for rate in STUDY_RATES
    ]


def every(r, blocks=range(12)):
    return {"r": r, "reduction_loc": blocks}


def by_ratio(ratio, prefix):
    """Counts after each of 12 blocks that keep a `ratio` of the sequence with `prefix` tokens."""
    counts = [196]
    for _ in range(12):
        total = counts[-1] + prefix
        counts.append(counts[-1] - math.floor(total - total * ratio))
    return {"tokens": counts[1:], "reduction_loc": range(12)}


def resting(rate):
    """Counts of blocks 3 to 11, three of each."""
    counts = [int(rate ** (1 + (block - 3) // 3) * 196) for block in range(3, 12)]
    return {"tokens": counts, "reduction_loc": range(3, 12)}


NEWER_CASES = [
    *study("tome"),
    *(NewerCase(f"tome/r{r}", every(r)) for r in (8, 13, 16)),
    *(NewerCase(f"tome/r{r}_dec", every((r, -1.0))) for r in (8, 13)),
    NewerCase("tome/r8_noprop", every(8), {"proportional": False}),
    NewerCase("tome/rlist0-30-0-30-20", every([0, 30, 0, 30, 20])),
    *study("pitome"),
    *(NewerCase(f"pitome/ratio{x}", by_ratio(x, 0)) for x in (0.9, 0.925, 0.95)),
    NewerCase("pitome/ratio0.9/bsm_last", by_ratio(0.9, 0), {"first": "protect"}),
    *study("tofu"),
    *(NewerCase(f"tofu/ratio{x}", by_ratio(x, 1)) for x in (0.9, 0.925, 0.95)),
    *study("dtem"),
    *(NewerCase(f"dtem/r{r}", every(r)) for r in (8, 16)),
    *study("diffrate"),
    *(
        NewerCase(f"diffrate/{name}", {})
        for name in ("ViT-T-DeiT_0.8", "ViT-T-DeiT_1.0", "ViT-S-DeiT_2.9")
    ),
    *study("ppt"),
    NewerCase("ppt/r50", every(50, (3, 6, 9))),
    *study("mctf"),
    *(NewerCase(f"mctf/r{r}", every(r, range(1, 12))) for r in (8, 16)),
    NewerCase("mctf/fast0.35", {"tokens": [128, 84, 55]}),
    *(
        NewerCase(f"mctf/r16/{name}", every(16, range(1, 12)), options)
        for name, options in {
            "ahead0": {"ahead": 0},
            "ahead2": {"ahead": 2},
            "oneway": {"two_way": False},
            "poolsize": {"pool": "size"},
            "nosize_noinfo": {"ti": 0, "tz": 0},
        }.items()
    ),
    *study("gtp"),
    NewerCase("gtp/p8", every(8)),
    NewerCase("gtp/p13_s0.7_a0.3", every(13), {"sparsity": 0.7, "alpha": 0.3}),
    NewerCase("gtp/p8_noscale_dense", every(8), {"scales": False, "sparsity": 1.0}),
    NewerCase("gtp/p8_nb4_spatial", every(8), {"graph": "spatial"}),
    *study("hatp"),
    *(NewerCase(f"hatp/loc3/r{r}", every(r, (3,))) for r in (53, 110)),
    *study("cropr"),
    NewerCase("cropr/kr0.70/loc3-6-9/llf", {"keep_rate": 0.7}, {"llf": True}),
    NewerCase("cropr/r16", every([17, *[16] * 10], range(1, 12))),
    *(
        NewerCase(f"cropr/r{r}_llf", every([r + 1, *[r] * 9], range(1, 11)), {"llf": True})
        for r in (8, 16)
    ),
    *(NewerCase(f"idlevit/kr{rate:.2f}/blocks3..11", resting(rate)) for rate in STUDY_RATES),
    NewerCase("idlevit/kr0.70/loc3-6-9", {"keep_rate": 0.7}),
]


def published_options(case, facts):
    """The options of a case, with the counts that come with the arrays."""
    if case.method != "diffrate" or case.schedule:
        return case.options
    counts = facts["cases"][case.name]
    return {"prune": tuple(counts["prune_kept"]), "merge": tuple(counts["merge_kept"])}


def extra_name(method, stage, name):
    if method == "dtem":
        return f"dtem.block{stage.spec.block}.{name.removeprefix('metric.')}"
    return f"cropr.module{stage.spec.block - 1}.{name}"


def newer_model(case, host, facts, parameters):
    """Return the model of a newer case on a copy of the host."""
    options = published_options(case, facts)
    model = reduction.reduce(copy.deepcopy(host), case.method, **case.schedule, **options)
    for stage in model.stages:
        for name, parameter in stage.named_parameters():
            if name.startswith("auxiliary."):  # of training alone
                continue
            parameter.data = parameters[extra_name(case.method, stage, name)].clone()
    return model
