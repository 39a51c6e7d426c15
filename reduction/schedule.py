"""How many tokens each stage keeps: every spelling of "how much" becomes one form."""

from collections.abc import Sequence

KeepRate = float | Sequence[float]
"""One cumulative rate, or one fraction of the original patch tokens for every stage."""


def keep_fractions(keep_rate: KeepRate, num_stages: int) -> tuple[float, ...]:
    """Return the fraction of the original patch tokens that each stage keeps.

    Args:
        keep_rate: A number `r` in (0, 1] is cumulative: stage s keeps `r ** (s + 1)`. A sequence
            gives each stage's fraction of the original tokens and must not rise.
        num_stages: Number of stages.

    Raises:
        ValueError: A rate outside (0, 1], a sequence of another length, or one that rises.
    """
    if isinstance(keep_rate, (int, float)):
        _check_rate(keep_rate)
        return tuple(float(keep_rate) ** (stage + 1) for stage in range(num_stages))
    rates = tuple(float(rate) for rate in keep_rate)
    if len(rates) != num_stages:
        raise ValueError(
            f"keep_rate has {len(rates)} values {list(rates)}, "
            f"but must be one number or have one value for each of the {num_stages} stages"
        )
    for rate in rates:
        _check_rate(rate)
    if list(rates) != sorted(rates, reverse=True):
        raise ValueError(f"keep_rate is {list(rates)}, but must not rise from stage to stage")
    return rates


def _check_rate(rate: float) -> None:
    if not 0 < rate <= 1:
        raise ValueError(f"keep_rate is {rate:g}, but must be in (0, 1]")


def check_blocks(reduction_loc: Sequence[int], depth: int) -> tuple[int, ...]:
    """Return `reduction_loc` as a tuple of ascending block indices of a host of `depth` blocks.

    Raises:
        ValueError: A block outside the host, blocks repeated or out of order, or none at all.
    """
    blocks = tuple(reduction_loc)
    outside = [block for block in blocks if not 0 <= block < depth]
    if outside:
        raise ValueError(
            f"reduction_loc has block {outside[0]}, but must be within 0..{depth - 1} "
            f"for a host of {depth} blocks"
        )
    if not blocks or list(blocks) != sorted(set(blocks)):
        raise ValueError(f"reduction_loc is {list(blocks)}, but must be ascending block indices")
    return blocks


def token_target(fraction: float, num_patches: int) -> int:
    """Return how many of `num_patches` tokens a stage keeps: `int(fraction * num_patches)`.

    Raises:
        ValueError: Nothing would be left.
    """
    target = int(fraction * num_patches)
    if target < 1:
        raise ValueError(
            f"keep_rate leaves 0 tokens (fraction {fraction:g} of {num_patches} patch tokens), "
            "but must leave at least 1 at every stage"
        )
    return target


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
    return tuple(token_target(fraction, num_patches) for fraction in fractions)
