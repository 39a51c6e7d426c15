"""Cells of runs that the published study's training script logged to W&B.

The script is that of Haurum et al., Which Tokens to Use?, ICCV Workshops 2023. A run's
configuration holds all its arguments: `model` is METHOD_CAPACITY_patch16_224, `keep_rate` is a list
of one ratio (empty for the unreduced model), and `output_dir` is the folder in which a folder with
the run's name holds `best_checkpoint.pth`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import one_line
from reduction.methods import CLASSES
from trainables.cell.cell import Cell
from trainables.data import DATASETS
from trainables.recipe import Recipe

Arguments = Mapping[str, Any]
"""Arguments of the script, as W&B returns them: unchecked."""

SKIPPED_TAGS = ("hidden", "Not Best")
BLOCKS = (3, 6, 9)
"""Blocks at which the published study reduces."""
METHOD_NAMES = {"dyvit": "dynamicvit"}
"""Name in the script -> name here, where they differ."""
RADIAL = "heuristic"
OPTIONS = {
    "kmedoids": {"cluster_iters": "iters", "equal_weight": "equal_weight"},
    "dpcknn": {"k_neighbors": "neighbours", "equal_weight": "equal_weight"},
    "sinkhorn": {"sinkhorn_eps": "eps", "cluster_iters": "iters"},
}
"""Method -> argument of the script -> option here."""
DEFAULTS = {"iters": 3, "equal_weight": False, "neighbours": 5, "eps": 1.0, "min_radius": 1.0}
CHECKPOINT = "best_checkpoint.pth"
MULTI_LABEL = ("coco", "nuswide", "digits_multi")


class NotACellError(Exception):
    """A run cannot be a cell; the message says why."""


@dataclass(frozen=True)
class PublishedRun:
    """A run of a W&B project."""

    path: str
    """ENTITY/PROJECT/ID."""
    name: str
    """Name on the site, and of the run's folder."""
    state: str
    tags: Sequence[str]
    config: Arguments
    summary: Mapping[str, float]

    @property
    def max_accuracy(self) -> float:
        """Percent."""
        return float(self.summary["max_accuracy"])

    @property
    def metric(self) -> str:
        """The metric that `max_accuracy` holds."""
        return "map" if self.config.get("dataset") in MULTI_LABEL else "top1"

    def why_skipped(self) -> str | None:
        """Return why the run does not count, None if it does."""
        if self.state == "running":
            return "running"
        tag = next((tag for tag in SKIPPED_TAGS if tag in self.tags), None)
        number = isinstance(self.summary.get("max_accuracy"), int | float)
        return tag or (None if number else "without max_accuracy")

    def checkpoints(self, folder: Path | None) -> list[Path]:
        """Return the places where its checkpoint may be, in the order in which to look.

        Args:
            folder: Copy of the script's working folder, or the folder of the runs' folders; None:
                `output_dir` is unchanged.
        """
        output = Path(str(self.config.get("output_dir") or "."))
        if folder is None:
            return [output / self.name / CHECKPOINT]
        below = output.relative_to(output.anchor)
        places = (folder / below / self.name / CHECKPOINT, folder / self.name / CHECKPOINT)
        return [p for p in places if p.resolve().is_relative_to(folder.resolve())]


def blocks_of(runs: Iterable[PublishedRun]) -> tuple[int, ...]:
    """Return the blocks at which most runs reduce, to be used for runs that do not reduce."""
    counted = Counter(tuple(run.config.get("reduction_loc") or ()) for run in runs)
    counted.pop((), None)
    return counted.most_common(1)[0][0] if counted else BLOCKS


def published_cell(run: PublishedRun, host: str, blocks: Sequence[int]) -> Cell:
    """Return the cell that a run trained.

    Args:
        run: The run.
        host: The recipe's host: the model without reduction.
        blocks: Blocks at which features of the unreduced model are compared with others.

    Raises:
        NotACellError: Its configuration is not one of the published script, or a cell cannot be
            configured like this.
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
        raise NotACellError(one_line(error, "its configuration")) from error


def _method(config: Arguments) -> tuple[str, str]:
    """Return method and capacity."""
    published, _, rest = str(config.get("model")).partition("_")
    capacity, _, patch = rest.partition("_")
    method = METHOD_NAMES.get(published, published)
    if published == RADIAL:
        method = str(config.get("heuristic_pattern", "")).lower()
    if method not in CLASSES or not capacity or not patch:
        pattern = f" with heuristic_pattern {method!r}" if published == RADIAL else ""
        raise NotACellError(
            f"model is {config.get('model')!r}{pattern}, but must be METHOD_CAPACITY_patch16_224, "
            "as the published study names its models"
        )
    return method, capacity


def _keep_rate(config: Arguments, method: str) -> float:
    given = config.get("keep_rate")
    rates = list(given) if isinstance(given, list | tuple) else [given]
    if method == "deit" or (_is_linear(config) and not rates):
        return 1.0
    if len(rates) != 1 or not isinstance(rates[0], int | float):
        raise NotACellError(f"keep_rate is {given!r}, but must be one number, as a cell has it")
    return float(rates[0])


def _options(config: Arguments, method: str) -> dict[str, object]:
    """Return the method's options that differ from the defaults here."""
    if _is_linear(config):
        radius = {"min_radius": config.get("min_radius", 1.0)}
        return {"schedule": "linear"} | _not_default(radius)
    known = OPTIONS.get(method, {})
    return _not_default({known[name]: config[name] for name in known if name in config})


def _is_linear(config: Arguments) -> bool:
    """Return whether a radial pattern shrinks at every block, the script's default."""
    radial = str(config.get("model")).startswith(f"{RADIAL}_")
    return radial and not config.get("not_contiguous", False)


def _not_default(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value != DEFAULTS[name]}
