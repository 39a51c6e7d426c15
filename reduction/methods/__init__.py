"""The listing of all methods: adding one is a file in this folder and a line in `CLASSES`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from reduction.stage import Stage

CLASSES = {
    "deit": "deit:Unreduced",
    "topk": "topk:TopK",
    "evit": "evit:EViT",
    "ats": "ats:ATS",
    "dynamicvit": "dynamicvit:DynamicViT",
    "tome": "tome:ToMe",
    "atc": "atc:ATC",
    "kmedoids": "kmedoids:KMedoids",
    "dpcknn": "dpcknn:DPCKNN",
    "sit": "sit:SiT",
    "patchmerger": "patchmerger:PatchMerger",
    "sinkhorn": "sinkhorn:Sinkhorn",
    "l1": "radial:L1",
    "l2": "radial:L2",
    "linf": "radial:LInf",
    "random": "random:Random",
}
"""Method name -> `module:class` within this package."""


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """What is known of a method without building it."""

    family: str
    """`pruning`, `merging`, `soft`, `control` (patterns that ignore the image) or `baseline`."""
    options: dict[str, Any]
    """The method's own options with their defaults."""
    citation: str
    """The work that introduced the method."""
    fixed_budget: bool
    """Whether the keep rate, and nothing else, decides how many tokens are left, with options at
    their defaults; `has_fixed_budget` answers for others."""
    patterns: tuple[str, ...]
    """What its traces hold for every stage: `kept`, `groups`, both or nothing."""
    needs_cls: bool
    """Whether the host must have a CLS token."""


def method_class(name: str) -> "type[Stage]":
    """Import and return the stage class of the method `name`; ValueError where unknown."""
    if name not in CLASSES:
        raise ValueError(f"method is {name!r}, but must be one of {', '.join(CLASSES)}")
    module, _, class_name = CLASSES[name].partition(":")
    found = getattr(import_module(f"{__name__}.{module}"), class_name)
    return cast("type[Stage]", found)


def has_fixed_budget(method: str, options: Mapping[str, Any]) -> bool:
    """Return whether the keep rate, and nothing else, decides how many tokens a method leaves.

    Args:
        method: A name in `reduction.METHODS`.
        options: The method's own options; those that are not given have their defaults.

    Raises:
        ValueError: The method is unknown.
    """
    return method_class(method).has_fixed_budget(**options)


class _Methods(Mapping[str, MethodInfo]):
    """Method name -> `MethodInfo`; only a look at a value imports torch, names never do."""

    def __getitem__(self, name: str) -> MethodInfo:
        if name not in CLASSES:
            raise KeyError(name)
        stage = method_class(name)
        return MethodInfo(
            family=stage.family,
            options=stage.options(),
            citation=stage.citation,
            fixed_budget=stage.has_fixed_budget(),
            patterns=stage.patterns,
            needs_cls=stage.needs_cls,
        )

    def __contains__(self, name: object) -> bool:
        return name in CLASSES

    def __iter__(self) -> Iterator[str]:
        return iter(CLASSES)

    def __len__(self) -> int:
        return len(CLASSES)


METHODS: Mapping[str, MethodInfo] = _Methods()
"""Every method by name, in the order of the listing."""
