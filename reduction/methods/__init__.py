"""The listing of all methods: adding one is a file in this folder and a line in `CLASSES`.

Methods of one's own need neither: they are classes, registered by a name or named by their place.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, cast

from reduction.schedule import MethodOptions

if TYPE_CHECKING:
    from reduction.stage import Stage

CLASSES = {
    "deit": "deit:Unreduced",
    "topk": "topk:TopK",
    "evit": "evit:EViT",
    "ats": "ats:ATS",
    "dynamicvit": "dynamicvit:DynamicViT",
    "gtp": "gtp:GTP",
    "hatp": "hatp:HATP",
    "cropr": "cropr:Cropr",
    "idlevit": "idlevit:IdleViT",
    "tome": "tome:ToMe",
    "atc": "atc:ATC",
    "pitome": "pitome:PiToMe",
    "tofu": "tofu:ToFu",
    "ppt": "ppt:PPT",
    "dtem": "dtem:DTEM",
    "mctf": "mctf:MCTF",
    "diffrate": "diffrate:DiffRate",
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
    options: MethodOptions
    """The method's own options with their defaults."""
    citation: str
    """The work that introduced the method."""
    fixed_budget: bool
    """Whether the keep rate, and nothing else, decides how many tokens are left, with options at
    their defaults; `has_fixed_budget` answers for others."""
    patterns: tuple[str, ...]
    """What its traces hold for every stage: `kept`, `groups`, both or nothing."""
    needs_cls: bool
    """Whether the host must have a CLS token, unless the option `score` is `received`."""


_REGISTERED: dict[str, "type[Stage]"] = {}
"""Methods that `register` was given, by name."""


def register(name: str, stage: "type[Stage]") -> None:
    """Make a method of your own known by a name, in this process.

    Args:
        name: Letters, digits and `_`.
        stage: A subclass of `reduction.stage.Stage` that says its family, citation and patterns.

    Raises:
        TypeError: `stage` is no such class.
        ValueError: The name is no such word, or that of another method.
    """
    if not name.isidentifier():
        raise ValueError(f"name is {name!r}, but must be letters, digits and _")
    if name in CLASSES or _REGISTERED.get(name, stage) is not stage:
        raise ValueError(f"name is {name!r}, but must not be that of another method")
    _REGISTERED[name] = _checked(stage)


def method_class(method: "str | type[Stage]") -> "type[Stage]":
    """Return the stage class of a method.

    Args:
        method: A name in `METHODS`, `module:Class` of your own, which is imported, or the class.

    Raises:
        TypeError: It is no class of stages.
        ValueError: There is no such method.
    """
    if not isinstance(method, str):
        return _checked(method)
    if method in _REGISTERED:
        return _REGISTERED[method]
    if method in CLASSES:
        module, _, class_name = CLASSES[method].partition(":")
        found = getattr(import_module(f"{__name__}.{module}"), class_name)
        return cast("type[Stage]", found)
    if ":" in method:
        return _checked(_imported(method))
    known = ", ".join([*CLASSES, *_REGISTERED])
    raise ValueError(f"method is {method!r}, but must be one of {known}")


def method_name(method: "str | type[Stage]") -> str:
    """Return the name of a method, for a class `module:Class`."""
    return method if isinstance(method, str) else f"{method.__module__}:{method.__qualname__}"


def _imported(place: str) -> object:
    module, _, class_name = place.partition(":")
    try:
        return attrgetter(class_name)(import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"method {place} cannot be imported: {reason}") from error


def _checked(stage: object) -> "type[Stage]":
    from reduction.stage import Stage

    if not (isinstance(stage, type) and issubclass(stage, Stage)):
        raise TypeError(f"method is {stage!r}, but must be a name or a subclass of Stage")
    missing = [name for name in ("family", "citation", "patterns") if not hasattr(stage, name)]
    if missing:
        raise TypeError(f"{stage.__name__} lacks {', '.join(missing)}, but must say each")
    return stage


def has_fixed_budget(method: str, options: MethodOptions) -> bool:
    """Return whether the keep rate, and nothing else, decides how many tokens a method leaves.

    Args:
        method: A name in `reduction.METHODS`, or `module:Class`.
        options: The method's own options; those that are not given have their defaults.

    Raises:
        ValueError: The method is unknown.
    """
    return method_class(method).has_fixed_budget(**options)


class _Methods(Mapping[str, MethodInfo]):
    """Method name -> `MethodInfo`; only a look at a value imports torch, names never do."""

    def __getitem__(self, name: str) -> MethodInfo:
        if name not in self:
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
        if name in CLASSES or name in _REGISTERED:
            return True
        return isinstance(name, str) and ":" in name and _is_method(name)

    def __iter__(self) -> Iterator[str]:
        return iter((*CLASSES, *_REGISTERED))

    def __len__(self) -> int:
        return len(CLASSES) + len(_REGISTERED)


def _is_method(place: str) -> bool:
    try:
        method_class(place)
    except (TypeError, ValueError):
        return False
    return True


METHODS: Mapping[str, MethodInfo] = _Methods()
"""Every method by name, in the order of the listing, then those registered; `module:Class` of a
method of your own is looked up, but not listed."""
