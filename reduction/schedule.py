"""How many tokens each stage keeps: every spelling of "how much" becomes a `Schedule`."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from numbers import Real
from typing import Any, NamedTuple, SupportsIndex, cast

KeepRate = float | Sequence[float]
"""One cumulative rate, or one fraction of the original patch tokens for every stage."""
Removals = int | Sequence[float]
"""Tokens that every block removes: a number, `(number, inflect)`, or a list of numbers."""
MethodOptions = dict[str, Any]
"""Options of a method by name: bool, int, float, str, or a tuple of numbers."""


class Amount(NamedTuple):
    """How much to reduce, as asked for; at most one is given."""

    keep_rate: KeepRate | None = None
    tokens: Sequence[int] | None = None
    r: Removals | None = None


DEFAULT_BLOCKS = (3, 6, 9)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The blocks that reduce, and how much; exactly one of `fractions`, `tokens`, `removals`."""

    blocks: tuple[int, ...]
    """0-based, ascending."""
    fractions: tuple[Fraction, ...] = ()
    """For every stage, the share of the original patch tokens it keeps, in (0, 1]."""
    tokens: tuple[int, ...] = ()
    """For every stage, the number of patch tokens it keeps."""
    removals: tuple[int, ...] = ()
    """For every stage, the number of tokens it removes."""

    def targets(self, num_patches: int) -> tuple[int, ...]:
        """Return the nominal number of patch tokens after every stage, of `num_patches` at first.

        Raises:
            ValueError: A fraction leaves none.
        """
        if self.removals:
            return tuple(num_patches - gone for gone in accumulate(self.removals))
        if self.tokens:
            return tuple(min(number, num_patches) for number in self.tokens)
        return tuple(_share(fraction, num_patches) for fraction in self.fractions)

    def describe(self, index: int) -> str:
        """Return what stage `index` is asked for, such as `keep=0.49`."""
        if self.removals:
            return f"r={self.removals[index]}"
        if self.tokens:
            return f"tokens={self.tokens[index]}"
        return f"keep={float(self.fractions[index]):.4g}"


def _share(fraction: Fraction, num_patches: int) -> int:
    target = int(fraction * num_patches)
    if target < 1:
        raise ValueError(
            f"keep_rate leaves 0 tokens (fraction {float(fraction):g} of {num_patches} patch "
            "tokens), but must leave at least 1 at every stage"
        )
    return target


def make_schedule(
    depth: int,
    *,
    keep_rate: KeepRate | None = None,
    tokens: Sequence[int] | None = None,
    r: Removals | None = None,
    reduction_loc: Sequence[int] | None = None,
) -> Schedule:
    """Return the schedule of a host of `depth` blocks; see `reduction.reduce` for the arguments.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: More than one of `keep_rate`, `tokens` and `r`, or a value that is not allowed.
    """
    given = {"keep_rate": keep_rate, "tokens": tokens, "r": r}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ValueError(
            f"{' and '.join(named)} are given, but must be one of keep_rate, tokens and r"
        )
    if reduction_loc is None:
        reduction_loc = DEFAULT_BLOCKS if r is None else range(depth)
    blocks = check_blocks(reduction_loc, depth)
    if r is not None:
        return Schedule(blocks=blocks, removals=removals(r, len(blocks)))
    if tokens is not None:
        return Schedule(blocks=blocks, tokens=_token_counts(tokens, len(blocks)))
    rate = 1.0 if keep_rate is None else keep_rate
    return Schedule(blocks=blocks, fractions=keep_fractions(rate, len(blocks)))


def keep_fractions(keep_rate: KeepRate, num_stages: int) -> tuple[Fraction, ...]:
    """Return the exact fraction of the original patch tokens that each stage keeps.

    Args:
        keep_rate: A number `r` in (0, 1] is cumulative: stage s keeps `r ** (s + 1)`. A sequence
            gives each stage's fraction of the original tokens and must not rise. A number is
            taken as the decimal, or the ratio of small integers, that it was written as.
        num_stages: Number of stages.

    Raises:
        TypeError: `keep_rate` is neither a number nor a sequence of numbers.
        ValueError: A rate outside (0, 1], a sequence of another length, or one that rises.
    """
    if isinstance(keep_rate, Real):
        exact = _exact_rate(keep_rate)
        return tuple(exact ** (stage + 1) for stage in range(num_stages))
    if not _is_sequence(keep_rate):
        raise TypeError(f"keep_rate is {keep_rate!r}, but must be a number or a list of numbers")
    rates = tuple(_exact_rate(rate) for rate in cast("Iterable[object]", keep_rate))
    shown = [float(rate) for rate in rates]
    if len(rates) != num_stages:
        raise ValueError(
            f"keep_rate has {len(rates)} values {shown}, "
            f"but must be one number or have one value for each of the {num_stages} stages"
        )
    _check_falling("keep_rate", shown)
    return rates


def _exact_rate(rate: object) -> Fraction:
    if isinstance(rate, bool) or not isinstance(rate, Real):
        raise TypeError(f"keep_rate has {rate!r}, but must be a number or a list of numbers")
    if not 0 < float(rate) <= 1:
        raise ValueError(f"keep_rate is {float(rate):g}, but must be in (0, 1]")
    # Products of rounded rates would lose tokens: 0.7 ** 2 * 100 is 48.99999999999999.
    return Fraction(str(rate)).limit_denominator(10**6)


def _token_counts(tokens: Sequence[int], num_stages: int) -> tuple[int, ...]:
    counts = _integers("tokens", tokens)
    if len(counts) != num_stages:
        raise ValueError(
            f"tokens has {len(counts)} values {list(counts)}, "
            f"but must have one for each of the {num_stages} stages"
        )
    if min(counts) < 1:
        raise ValueError(f"tokens has {min(counts)}, but must be at least 1 at every stage")
    _check_falling("tokens", counts)
    return counts


def removals(r: Removals, num_stages: int) -> tuple[int, ...]:
    """Return how many tokens each stage removes, by ToMe's three spellings.

    Args:
        r: An integer is the same for all. A tuple `(r, inflect)` runs linearly around r,
            truncated to integers: inflect -1 from 2r to 0, 0 constant, 1 from 0 to 2r. A list is
            taken as it is, with zeros for what is missing at its end and without what is too
            much.
        num_stages: Number of stages.

    Raises:
        TypeError: `r` is none of these.
        ValueError: A negative number, or an inflection outside [-1, 1].
    """
    if isinstance(r, SupportsIndex) and not isinstance(r, bool):
        numbers = [operator.index(r)] * num_stages
    elif isinstance(r, tuple) and len(r) == 2:
        numbers = _inflected(*r, num_stages=num_stages)
    else:
        numbers = list(_integers("r", r))
    if any(number < 0 for number in numbers):
        raise ValueError(f"r has {min(numbers)}, but must be at least 0 in every block")
    return tuple((numbers + [0] * num_stages)[:num_stages])


def _inflected(r: Any, inflect: Any, *, num_stages: int) -> list[int]:
    """Bolya et al., Token Merging, ICLR 2023, truncated as in its code."""
    if not all(isinstance(x, Real) and not isinstance(x, bool) for x in (r, inflect)):
        raise TypeError(f"r is {(r, inflect)!r}, but must be a number and its inflection")
    if not -1 <= inflect <= 1:
        raise ValueError(f"r has the inflection {float(inflect):g}, but must be in [-1, 1]")
    first = int(r * (1.0 - inflect))
    step = (2 * r - 2 * first) / max(num_stages - 1, 1)
    return [int(first + step * stage) for stage in range(num_stages)]


def check_blocks(reduction_loc: Sequence[int], depth: int) -> tuple[int, ...]:
    """Return `reduction_loc` as a tuple of ascending block indices of a host of `depth` blocks.

    Raises:
        TypeError: `reduction_loc` is no sequence of integers.
        ValueError: A block outside the host, blocks repeated or out of order, or none at all.
    """
    blocks = _integers("reduction_loc", reduction_loc)
    outside = [block for block in blocks if not 0 <= block < depth]
    if outside:
        raise ValueError(
            f"reduction_loc has block {outside[0]}, but must be within 0..{depth - 1} "
            f"for a host of {depth} blocks"
        )
    if not blocks or list(blocks) != sorted(set(blocks)):
        raise ValueError(f"reduction_loc is {list(blocks)}, but must be ascending block indices")
    return blocks


def _integers(name: str, values: Any) -> tuple[int, ...]:
    whole = _is_sequence(values) and all(
        isinstance(value, SupportsIndex) and not isinstance(value, bool) for value in values
    )
    if not whole:
        raise TypeError(f"{name} is {values!r}, but must be a list of integers")
    return tuple(operator.index(value) for value in values)


def _is_sequence(values: object) -> bool:
    """Whether `values` is a list of some kind, arrays of one dimension included, and no text."""
    listed = hasattr(values, "__iter__") and getattr(values, "ndim", 1) == 1
    return listed and not isinstance(values, (str, bytes, dict))


def _check_falling(name: str, values: Sequence[float]) -> None:
    if list(values) != sorted(values, reverse=True):
        raise ValueError(f"{name} is {list(values)}, but must not rise from stage to stage")


def token_targets(keep_rate: KeepRate, num_stages: int, num_patches: int) -> tuple[int, ...]:
    """Return the number of patch tokens each stage is asked to keep, e.g. 137, 96, 67.

    Args:
        keep_rate: As in `keep_fractions`.
        num_stages: Number of stages.
        num_patches: Patch tokens of the unreduced model.

    Raises:
        ValueError: As in `keep_fractions`, or where a stage would be left without tokens.
    """
    fractions = keep_fractions(keep_rate, num_stages)
    return tuple(_share(fraction, num_patches) for fraction in fractions)
