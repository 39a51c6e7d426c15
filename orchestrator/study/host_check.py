"""Checks before training that the pretrained weights of a study's hosts are available."""

from collections.abc import Iterable
from pathlib import Path

from orchestrator.errors import UserError
from trainables.cell.cell import Cell
from trainables.models.host import build_host
from trainables.models.host_source import HostSource
from trainables.models.teacher import pretrained_teacher


def check_hosts(cells: Iterable[Cell], weights: Path | None) -> None:
    """Make sure that the weights of all hosts and teachers exist, or are on the hub, and fit.

    Args:
        cells: The cells to train.
        weights: Folder of the hosts' pretrained weights; None where timm fetches them.

    Raises:
        UserError: Names every network whose weights are missing or do not fit, and what to do.
    """
    cells = list(cells)
    hosts = {cell.host: cell for cell in cells if cell.recipe.pretrained}
    teachers = {
        cell.teacher: cell
        for cell in cells
        if cell.recipe.distillation != "none" and cell.prerequisite is None
    }
    problems = {
        name: problem
        for needed, asked in ((hosts, _problem), (teachers, _teacher_problem))
        for name, cell in sorted(needed.items())
        if (problem := asked(cell, weights))
    }
    if problems:
        listed = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        hint = _hint(next(iter(problems)), weights)
        raise UserError(
            f"pretrained weights of {len(problems)} of {len(hosts | teachers)} hosts "
            f"cannot be used: {listed}{hint}"
        )


def _problem(cell: Cell, weights: Path | None) -> str | None:
    try:
        source = HostSource.find(cell.host, weights)
        problem = source.problem()
        if problem is None and source.file is not None:
            # Reads the file as a cell will, to find out now whether it is damaged or does not fit.
            size = cell.recipe.image_size
            build_host(cell.host, num_classes=1, image_size=size, weights=weights)
    except (TypeError, ValueError, OSError) as error:
        return str(error)
    return problem


def _teacher_problem(cell: Cell, weights: Path | None) -> str | None:
    try:
        source = HostSource.find(cell.teacher, weights, any_network=True)
        problem = source.problem()
        if problem is None and source.file is not None:
            pretrained_teacher(cell, source.config["num_classes"], weights)
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        return str(error)
    return problem


def _hint(name: str, weights: Path | None) -> str:
    """Return the command that downloads a timm model, nothing for other hosts."""
    try:
        hub = HostSource.find(name, any_network=True).config.get("hf_hub_id")
    except (ValueError, OSError):
        return ""
    if not hub:
        return ""
    folder = weights or Path("DIR")
    give = "" if weights else " and give that folder with --weights DIR"
    download = f"hf download {hub} --local-dir {folder / name}"
    return f" (with internet access, run for each: {download}{give})"
