"""Checks before a launch starts anything, so that no error waits until the 40th cell."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from timm.models import VisionTransformer

import reduction
from orchestrator.console import dataset_root, line, work_shown
from orchestrator.errors import UserError
from orchestrator.study.estimates import DiskNeed, Estimates
from orchestrator.study.host_check import check_hosts
from orchestrator.study.selection import Options, Selection
from reduction.model import ReducedVisionTransformer
from trainables.cell.cell import Cell
from trainables.data import file_dataset, open_dataset
from trainables.data.base import ImageDataset
from trainables.data.reading import ReadingProgress
from trainables.loop.adapters import WITHOUT_PEFT, has_peft
from trainables.models.host import build_host
from trainables.models.macs import training_macs_an_image
from trainables.models.teacher import check_distillation

NO_MATTER: Any = {
    **dict.fromkeys(("seed", "prerequisite", "tuning"), True),  # A teacher has the seed.
    "recipe": {"lr", "weight_decay"},
}
"""What neither the work of cells nor their files depend on, and many trials differ in."""


def preflight(selection: Selection, options: Options, console: Console) -> Estimates:
    """Check weights, datasets and methods of all unfinished cells.

    Args:
        selection: The cells.
        options: Where weights and datasets are.
        console: Where to show the progress of reading datasets.

    Raises:
        UserError: Weights, datasets or a package are missing or broken, which it names all, or a
            method does not fit its host.
    """
    untrained, cells = selection.untrained(), selection.unfinished()
    folder = selection.store.datasets
    datasets: dict[str, ImageDataset] = {}

    def open_one(name: str) -> None:
        datasets[name] = _open(name, options.data, folder, progress)

    names = sorted({cell.dataset for cell in cells})
    with work_shown(console) as progress:
        _check_all(
            partial(_check_adapters, untrained),
            partial(check_hosts, untrained, options.weights),
            *(partial(open_one, name) for name in names),
        )
    for name, dataset in datasets.items():
        for note in dataset.notes:
            line(console, f"dataset {name}: {note}")
    with torch.device("meta"):  # Shapes only: no random numbers are drawn and no memory is used.
        return forecast(cells, datasets, options.weights)


def _check_all(*checks: Callable[[], None]) -> None:
    """Do all checks, and then raise a UserError with all that they found."""
    problems = []
    for check in checks:
        try:
            check()
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))


def published_forecast(selection: Selection, weights: Path | None) -> Estimates | None:
    """Estimate as `preflight`, where datasets are not there, by what was published of them.

    Returns:
        None where a dataset has no published numbers of images.

    Raises:
        UserError: A method does not fit its host.
    """
    cells = selection.unfinished()
    found = {name: file_dataset(name) for name in {cell.dataset for cell in cells}}
    datasets = {name: each and each.as_published() for name, each in found.items()}
    known = {name: dataset for name, dataset in datasets.items() if dataset}
    if len(known) < len(datasets):
        return None
    with torch.device("meta"):
        return forecast(cells, known, weights)


def forecast(
    cells: Sequence[Cell], datasets: Mapping[str, ImageDataset], weights: Path | None
) -> Estimates:
    """Fit every method to its host, without weights.

    Args:
        cells: The cells to train or evaluate.
        datasets: The cells' datasets by name.
        weights: Folder of the hosts' pretrained weights, whose configurations describe them.

    Raises:
        UserError: A method does not fit its host.
    """
    found = Estimates()
    # Reduced models share their host's weights: one host serves all methods and rates.
    hosts: dict[tuple[str, str, str], VisionTransformer] = {}
    known: dict[str, tuple[float, DiskNeed]] = {}
    for cell in cells:
        kind = cell.model_dump_json(exclude=NO_MATTER)
        if kind in known:
            found.macs[cell.id], found.disk[cell.id] = known[kind]
            continue
        try:
            dataset = datasets[cell.dataset].asked(cell.recipe.task)
            if (of := (cell.host, cell.dataset, dataset.task)) not in hosts:
                hosts[of] = _host(cell, dataset, weights)
            host = hosts[of]
            model = _reduce(host, cell)
            _check_rates(cell, model, host)
            check_distillation(cell, model, dataset, weights)
        except (TypeError, ValueError, OSError) as error:
            raise UserError(f"cell {cell.id}: {error}") from error
        passes = cell.recipe.epochs * len(dataset.train)
        macs = passes * training_macs_an_image(cell, host, model)
        known[kind] = macs, DiskNeed.of(cell, model, dataset)
        found.macs[cell.id], found.disk[cell.id] = known[kind]
    return found


def _check_adapters(cells: Iterable[Cell]) -> None:
    adapted = (cell for cell in cells if cell.recipe.backbone == "lora")
    if (cell := next(adapted, None)) is not None and not has_peft():
        raise UserError(f"cell {cell.id}: {WITHOUT_PEFT}")


def _open(
    name: str, data: Path | None, index_folder: Path, progress: ReadingProgress
) -> ImageDataset:
    root = dataset_root(name, data)
    try:
        return open_dataset(name, root, index_folder, progress)
    except (ValueError, OSError) as error:
        raise UserError(f"{error} ({_data_hint(name, root, error)})") from error


def _data_hint(name: str, root: Path | None, error: Exception) -> str:
    """Return what to type where a dataset cannot be opened."""
    check = f"tokensweep check-data {name} {root or 'DIR'}"
    give = "" if root else "give its folder with --data DIR"
    fetched = (known := file_dataset(name)) and known.download
    if fetched and (root is None or isinstance(error, FileNotFoundError)):
        return f"{give}{give and '; '}{check} --download fetches it"
    return give or f"{check} tells more"


def _host(cell: Cell, dataset: ImageDataset, weights: Path | None) -> VisionTransformer:
    host = build_host(
        cell.host,
        num_classes=len(dataset.class_names),
        pretrained=False,
        image_size=cell.recipe.image_size,
        weights=weights,
    )
    _check_image_size(host, cell.recipe.image_size)
    return host


def _check_image_size(host: VisionTransformer, size: int) -> None:
    """Refuse sizes of which a host would leave out the last rows and columns without a word."""
    for patch in host.patch_embed.patch_size:
        if size % patch and not host.patch_embed.dynamic_img_pad:
            below = max(1, size // patch) * patch
            raise ValueError(
                f"image_size is {size}, but must be a multiple of the host's patch size, {patch}, "
                f"such as {below} or {below + patch}"
            )


def _reduce(host: VisionTransformer, cell: Cell) -> ReducedVisionTransformer:
    return reduction.reduce(
        host,
        cell.method,
        **cell.amount._asdict(),
        reduction_loc=cell.reduction_loc,
        **cell.options,
    )


def _check_rates(cell: Cell, model: VisionTransformer, host: VisionTransformer) -> None:
    """Refuse keep rates at which the model has other parameters than the trained one."""
    shapes = _shapes(model) if cell.eval_keep_rates else {}
    for rate in cell.eval_keep_rates:
        others = _shapes(_reduce(host, cell.at_rate(rate)))
        for name in sorted(shapes.keys() | others.keys()):
            if shapes.get(name) != others.get(name):
                raise ValueError(
                    f"eval_keep_rates has {rate:g}, but the parameters of "
                    f"{cell.method} depend on the keep rate ({name} is {shapes.get(name)} at "
                    f"{cell.budget} and {others.get(name)} at {rate:g}); "
                    "give this method a grid without eval_keep_rates"
                )


def _shapes(model: VisionTransformer) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
