"""Runs of a W&B project as the published study's training script made them, as cells.

The script is that of Haurum et al., Which Tokens to Use?, ICCV Workshops 2023. A run's
configuration holds all its arguments: `model` is METHOD_CAPACITY_patch16_224, `keep_rate` a list of
one ratio (empty for the unreduced model), `output_dir` the folder below which a folder with the
run's name holds `best_checkpoint.pth`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import describe
from reduction.methods import CLASSES
from trainables.cell import Cell
from trainables.data import DATASETS
from trainables.recipe import Recipe

SKIPPED_TAGS = ("hidden", "Not Best")
BLOCKS = (3, 6, 9)
"""Where the published study reduces."""
METHODS = {"dyvit": "dynamicvit"}
"""Published name -> ours, where they differ."""
RADIAL = "heuristic"
OPTIONS = {
    "kmedoids": {"cluster_iters": "iters", "equal_weight": "equal_weight"},
    "dpcknn": {"k_neighbors": "neighbours", "equal_weight": "equal_weight"},
    "sinkhorn": {"sinkhorn_eps": "eps", "cluster_iters": "iters"},
}
"""Method -> the script's argument -> our option."""
DEFAULTS = {"iters": 3, "equal_weight": False, "neighbours": 5, "eps": 1.0, "min_radius": 1.0}
CHECKPOINT = "best_checkpoint.pth"
MULTI_LABEL = ("coco", "nuswide", "digits_multi")


class NotACellError(Exception):
    """Why a run cannot be a cell."""


@dataclass(frozen=True)
class Run:
    """A run of a W&B project."""

    path: str
    """ENTITY/PROJECT/ID."""
    name: str
    """What the site shows, and the name of the run's folder."""
    state: str
    tags: Sequence[str]
    config: Mapping[str, Any]
    summary: Mapping[str, Any]

    @property
    def max_accuracy(self) -> float:
        """Percent."""
        return float(self.summary["max_accuracy"])

    @property
    def metric(self) -> str:
        """What `max_accuracy` is."""
        return "map" if self.config.get("dataset") in MULTI_LABEL else "top1"

    def why_skipped(self) -> str | None:
        """Return what a run is that does not count, None for one that does."""
        if self.state == "running":
            return "running"
        tag = next((tag for tag in SKIPPED_TAGS if tag in self.tags), None)
        number = isinstance(self.summary.get("max_accuracy"), int | float)
        return tag or (None if number else "without max_accuracy")

    def checkpoints(self, folder: Path | None) -> list[Path]:
        """Return where its checkpoint may be, the first that is there counts.

        Args:
            folder: Holds what the training script's working folder held, or the runs' folders;
                None: `output_dir` is where it was.
        """
        output = Path(str(self.config.get("output_dir") or "."))
        if folder is None:
            return [output / self.name / CHECKPOINT]
        below = output.relative_to(output.anchor)
        places = (folder / below / self.name / CHECKPOINT, folder / self.name / CHECKPOINT)
        return [p for p in places if p.resolve().is_relative_to(folder.resolve())]


def blocks_of(runs: Iterable[Run]) -> tuple[int, ...]:
    """Return the blocks at which most runs reduce, for those that do not reduce."""
    counted = Counter(tuple(run.config.get("reduction_loc") or ()) for run in runs)
    counted.pop((), None)
    return counted.most_common(1)[0][0] if counted else BLOCKS


def cell_of(run: Run, host: str, blocks: Sequence[int]) -> Cell:
    """Return the cell that a run has trained.

    Args:
        run: The run.
        host: The recipe's host: what the model is without reduction.
        blocks: Where features of the unreduced model are compared with others'.

    Raises:
        NotACellError: Its configuration is not one of the published script's, or asks for what a
            cell cannot be.
    """
    config = run.config
    method, capacity = _method(config)
    if config.get("dataset") not in DATASETS:
        allowed = ", ".join(DATASETS)
        raise NotACellError(f"dataset is {config.get('dataset')!r}, but must be one of: {allowed}")
    epochs = config.get("epochs", 0)
    try:
        return Cell(
            dataset=config["dataset"],
            method=method,
            capacity=capacity,
            keep_rate=_keep_rate(config, method),
            reduction_loc=tuple(config.get("reduction_loc") or blocks),
            seed=config.get("seed", 0),
            options=_options(config, method),
            recipe=Recipe(
                host=host,
                pretrained=False,
                image_size=config.get("input_size", 224),
                epochs=epochs,
                warmup_epochs=0,
            ),
            imported=run.path,
        )
    except ValidationError as error:
        raise NotACellError(describe(error, "its configuration")) from error


def _method(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return method and capacity."""
    published, _, rest = str(config.get("model")).partition("_")
    capacity, _, patch = rest.partition("_")
    method = METHODS.get(published, published)
    if published == RADIAL:
        method = str(config.get("heuristic_pattern", "")).lower()
    if method not in CLASSES or not capacity or not patch:
        pattern = f" with heuristic_pattern {method!r}" if published == RADIAL else ""
        raise NotACellError(
            f"model is {config.get('model')!r}{pattern}, but must be METHOD_CAPACITY_patch16_224, "
            "as the published study names its models"
        )
    return method, capacity


def _keep_rate(config: Mapping[str, Any], method: str) -> float:
    given = config.get("keep_rate")
    rates = list(given) if isinstance(given, list | tuple) else [given]
    if method == "deit" or (_is_linear(config) and not rates):
        return 1.0
    if len(rates) != 1 or not isinstance(rates[0], int | float):
        raise NotACellError(f"keep_rate is {given!r}, but must be one number, as a cell has it")
    return float(rates[0])


def _options(config: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Return the method's options that are not our defaults."""
    if _is_linear(config):
        radius = {"min_radius": config.get("min_radius", 1.0)}
        return {"schedule": "linear"} | _not_default(radius)
    known = OPTIONS.get(method, {})
    return _not_default({known[name]: config[name] for name in known if name in config})


def _is_linear(config: Mapping[str, Any]) -> bool:
    """Tell whether a radial pattern shrinks at every block, as it does unless asked otherwise."""
    radial = str(config.get("model")).startswith(f"{RADIAL}_")
    return radial and not config.get("not_contiguous", False)


def _not_default(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value != DEFAULTS[name]}
