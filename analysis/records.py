"""A cell as the analysis sees it: facts and metrics, and the arrays its evaluation left."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from analysis.features import OwnMoments, own_moments

Source = str | Path | BinaryIO


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """Identity, state and metrics of one cell of a study."""

    cell_id: str
    dataset: str
    method: str
    """Name of the method, with those of its options that are not at their defaults: two variants
    of one method, such as `atc` and `atc linkage=single`, are two methods to the analysis."""
    family: str
    """Kind of method, such as `pruning`, `merging`, `soft` or `baseline`."""
    capacity: str
    keep_rate: float
    """Share of the patch tokens kept at each stage, in (0, 1]. Where `schedule` is given, the one
    that asks for as many tokens after the last stage; NaN before the cell is evaluated."""
    schedule: str | None = None
    """The budget where it is no keep rate, such as `r=8` or `tokens=48,32,16`."""
    eval_keep_rate: float | None = None
    """The keep rate that the weights were evaluated at, if not `keep_rate`."""
    stages: tuple[int, ...]
    """0-based indices of the blocks that reduce, ascending."""
    seed: int
    meets_every_rate: bool = False
    """The method has no fixed budget, so it is compared with cells of every keep rate."""
    state: str = "pending"
    """`done`, `running`, `pending`, `failed`, ..."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Contents of `eval.json`; empty where the cell has not been evaluated."""
    error: str | None = None
    """Why the cell failed, if it did."""
    series: str = ""
    """What cells share that differ in nothing but the seed."""
    options: str | None = None
    """The method's own options as JSON, None where they are the defaults."""
    imported: str | None = None
    """The W&B run that the cell was imported from, None where it is trained here."""
    note: str | None = None
    """Why metrics are missing, where the state alone does not tell."""
    progress: Mapping[str, Any] = field(default_factory=dict)
    """How far the training is (`epoch`, `epochs`), how many attempts ended on a number that is not
    finite and what that changed (`not_finite`, `gentler`), and what a trained cell took
    (`train_seconds`, `data_wait`)."""

    @property
    def budget(self) -> str:
        """The budget in words, such as `0.5` or `r=8`."""
        return budget_of(self.keep_rate, self.schedule)


@dataclass(frozen=True)
class CellArtifacts:
    """An evaluated cell with its per-image arrays; M images, N0 patches, C features.

    `patterns` holds `image` [M] (ids), `grid` [2] (rows and columns of patches), `depth` ()
    (blocks of the model) and per stage block l: `tokens_{l}` [M] live patch tokens, `kept_{l}`
    [M, K] patch indices padded with the dtype's maximum, `group_{l}` [M, N0] group of each patch.
    `features` holds `cls_{l}` [M, C] for each stage block and the last one.
    """

    record: CellRecord
    patterns: Mapping[str, np.ndarray]
    features: Mapping[str, np.ndarray]
    predictions: Mapping[str, np.ndarray] = field(default_factory=dict)
    """As `analysis.answers.prediction_arrays` returns them."""
    moments: Mapping[int, OwnMoments | str] = field(default_factory=dict)
    """What `cls` says by itself, by block, or why that cannot be told; see `with_moments`."""

    def with_moments(self) -> Self:
        """Return the cell with `moments` for its features; they take seconds for large ones."""
        moments = {block: _moments(cls) for block, cls in self.cls.items()}
        return replace(self, features={}, moments=moments)

    @property
    def images(self) -> np.ndarray:
        """Ids of the evaluated images, [M]."""
        return self.patterns["image"]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        rows, columns = self.patterns["grid"].tolist()
        return rows, columns

    @property
    def num_patches(self) -> int:
        """N0, the number of patches of an image."""
        rows, columns = self.grid
        return rows * columns

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return int(self.patterns["depth"])

    @property
    def kept(self) -> dict[int, np.ndarray]:
        """Kept patches of each stage, block -> [M, K]; empty for methods without kept patches."""
        return _by_block(self.patterns, "kept")

    @property
    def groups(self) -> dict[int, np.ndarray]:
        """Group of every patch at each stage, block -> [M, N0]; empty for pruning methods."""
        return _by_block(self.patterns, "group")

    @property
    def tokens(self) -> dict[int, np.ndarray]:
        """Live patch tokens after each stage, block -> [M]."""
        return _by_block(self.patterns, "tokens")

    @property
    def cls(self) -> dict[int, np.ndarray]:
        """CLS features after each stage block and the last block, block -> [M, C]."""
        return _by_block(self.features, "cls")


def budget_of(keep_rate: float, schedule: object) -> str:
    """Return a cell's budget in words: its schedule, or its keep rate where that is missing."""
    return schedule if isinstance(schedule, str) else f"{keep_rate:g}"


def rate_in_words(records: Iterable[CellRecord], rate: float) -> str:
    """Return a keep rate as the cells at it were asked for it: `0.5`, or `r=8`."""
    budgets = {record.budget: None for record in records if record.keep_rate == rate}
    return " and ".join(budgets) or f"{rate:g}"


def asked_for(budget: str) -> str:
    """Return a budget in a sentence: `keep rate 0.5`, or `r=8`."""
    return budget if "=" in budget else f"keep rate {budget}"


def cells_at_rate(records: Sequence[CellRecord], rate: float) -> list[CellRecord]:
    """Cells run at a keep rate, and those that meet it all the same: see `meets_every_rate`."""
    own = [record for record in records if record.keep_rate == rate]
    methods = {record.method for record in own}
    free = [r for r in records if r.meets_every_rate and r.method not in methods]
    return own + free


def read_arrays(source: Source) -> dict[str, np.ndarray]:
    """Return all arrays of an npz file, given as a path or an open binary file."""
    with np.load(source, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _moments(features: np.ndarray) -> OwnMoments | str:
    try:
        return own_moments(features)
    except ValueError as reason:
        return str(reason)


def _by_block(arrays: Mapping[str, np.ndarray], kind: str) -> dict[int, np.ndarray]:
    prefix = f"{kind}_"
    named = {name.removeprefix(prefix): name for name in arrays if name.startswith(prefix)}
    return {block: arrays[named[str(block)]] for block in sorted(map(int, named))}
