"""What can be known to go wrong is said before anything starts, not in the 40th cell."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from timm.models import VisionTransformer

import reduction
from orchestrator.data.datasets import dataset_root, work_shown
from orchestrator.data.host_check import check_hosts
from orchestrator.errors import UserError
from orchestrator.forecast import Forecast
from orchestrator.selection import Options, Selection
from orchestrator.storage.disk_need import DiskNeed
from reduction.model import ReducedVisionTransformer
from trainables.cell import Cell
from trainables.data import open_dataset
from trainables.data.base import ImageDataset
from trainables.data.reading import ReadingProgress
from trainables.host import build_host
from trainables.macs import training_macs_an_image
from trainables.teacher import check_distillation


def preflight(selection: Selection, options: Options, console: Console) -> Forecast:
    """Check weights, datasets and methods of all that is left to do.

    Args:
        selection: The cells.
        options: Where weights and datasets are.
        console: Where to show how far the reading of a dataset is.

    Raises:
        UserError: Weights or a dataset are missing or broken, or a method does not fit its host.
    """
    check_hosts(selection.untrained(), options.weights)
    cells = selection.unfinished()
    names = sorted({cell.dataset for cell in cells})
    with work_shown(console) as progress:
        datasets = {
            name: _open(name, options.data, selection.store.datasets, progress) for name in names
        }
    with torch.device("meta"):  # Shapes alone: nothing is drawn and no memory used.
        return forecast(cells, datasets, options.weights)


def forecast(
    cells: Sequence[Cell], datasets: Mapping[str, ImageDataset], weights: Path | None
) -> Forecast:
    """Fit every method to its host, without weights.

    Args:
        cells: What is to be trained or evaluated.
        datasets: The cells' datasets by name.
        weights: Folder of the hosts' pretrained weights, whose configurations say what they are.

    Raises:
        UserError: A method does not fit its host.
    """
    found = Forecast()
    # Reduced models share their host's weights: one host serves all methods and rates.
    hosts: dict[tuple[str, str], VisionTransformer] = {}
    known: dict[str, tuple[float, DiskNeed]] = {}
    for cell in cells:
        kind = cell.model_dump_json(exclude={"seed", "prerequisite"})  # A teacher has the seed.
        if kind in known:
            found.macs[cell.id], found.disk[cell.id] = known[kind]
            continue
        dataset = datasets[cell.dataset]
        try:
            if (cell.host, cell.dataset) not in hosts:
                hosts[cell.host, cell.dataset] = _host(cell, dataset, weights)
            host = hosts[cell.host, cell.dataset]
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


def _open(
    name: str, data: Path | None, index_folder: Path, progress: ReadingProgress
) -> ImageDataset:
    root = dataset_root(name, data)
    try:
        return open_dataset(name, root, index_folder, progress)
    except (ValueError, OSError) as error:
        hint = (
            f"tokensweep check-data {name} {root} tells more"
            if data
            else "give its folder with --data DIR"
        )
        raise UserError(f"{error} ({hint})") from error


def _host(cell: Cell, dataset: ImageDataset, weights: Path | None) -> VisionTransformer:
    return build_host(
        cell.host,
        num_classes=len(dataset.class_names),
        pretrained=False,
        image_size=cell.recipe.image_size,
        weights=weights,
    )


def _reduce(host: VisionTransformer, cell: Cell) -> ReducedVisionTransformer:
    return reduction.reduce(
        host,
        cell.method,
        keep_rate=cell.keep_rate,
        reduction_loc=cell.reduction_loc,
        **cell.options,
    )


def _check_rates(cell: Cell, model: VisionTransformer, host: VisionTransformer) -> None:
    """Refuse to evaluate weights at a keep rate whose model has other parameters."""
    shapes = _shapes(model) if cell.eval_keep_rates else {}
    for rate in cell.eval_keep_rates:
        others = _shapes(_reduce(host, cell.model_copy(update={"keep_rate": rate})))
        for name in sorted(shapes.keys() | others.keys()):
            if shapes.get(name) != others.get(name):
                raise ValueError(
                    f"eval_keep_rates has {rate:g}, but the parameters of "
                    f"{cell.method} depend on the keep rate ({name} is {shapes.get(name)} at "
                    f"{cell.keep_rate:g} and {others.get(name)} at {rate:g}); "
                    "give this method a grid without eval_keep_rates"
                )


def _shapes(model: VisionTransformer) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
