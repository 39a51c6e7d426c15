"""Who teaches a cell: the unreduced cell that was trained before it, or a pretrained network."""

from pathlib import Path

import timm
import torch
from safetensors.torch import load as load_safetensors
from timm.models import VisionTransformer
from torch import nn

from reduction.checkpoints import read_weights
from reduction.model import ReducedVisionTransformer
from trainables.cell.cell import Cell
from trainables.cell.cell_folder import CellFolder
from trainables.data.base import ImageDataset
from trainables.models.distillation import Teacher
from trainables.models.host import build_host, build_model
from trainables.models.host_source import HostSource
from trainables.storage.paths import StorePath

TAUGHT_BY_TOKENS = ("dynamicvit", "idlevit")
"""Kinds of distillation for which a teacher shows its tokens."""


def load_teacher(
    cell: Cell,
    student: ReducedVisionTransformer,
    dataset: ImageDataset,
    folder: StorePath | None = None,
    weights: Path | None = None,
) -> Teacher | None:
    """Return the teacher of a cell with its weights, on the student's device.

    From here on the student's distillation head, if the recipe teaches one, answers apart from
    the other in training.

    Args:
        cell: Says who it is.
        student: The cell's model.
        dataset: What it is taught on.
        folder: The folder of the cell's prerequisite in the store; None where it has none.
        weights: Folder of pretrained weights, see `HostSource.find`.

    Returns:
        None where the recipe has no distillation.

    Raises:
        ValueError: The teacher does not fit the student or the dataset.
        DamagedFileError: The prerequisite's weights are missing or damaged.
        OSError: A pretrained network's weights can be neither read nor downloaded.
    """
    if cell.recipe.distillation == "none":
        return None
    check_distillation(cell, student, dataset, weights)
    num_classes = len(dataset.class_names)
    if cell.recipe.taught_by_baseline:
        network = _trained_cell(cell, num_classes, folder, weights)
    else:
        network = pretrained_teacher(cell, num_classes, weights)
    _check_patches(cell, student, network)
    return _teaching(cell, student, network)


def untrained_teacher(
    cell: Cell, student: ReducedVisionTransformer, num_classes: int, weights: Path | None = None
) -> Teacher | None:
    """Return a teacher of the shape that `load_teacher` would return, its weights random.

    Args:
        cell: Says who it is.
        student: The cell's model.
        num_classes: That both tell apart.
        weights: Folder of pretrained weights, whose configurations say what they are.
    """
    if cell.recipe.distillation == "none":
        return None
    if cell.recipe.taught_by_baseline:
        baseline = cell.at_rate(1.0).model_copy(update={"method": "deit", "options": {}})
        network: nn.Module = build_model(baseline, num_classes, pretrained=False, weights=weights)
    else:
        network = pretrained_teacher(cell, num_classes, weights, pretrained=False)
    return _teaching(cell, student, network)


def _teaching(cell: Cell, student: ReducedVisionTransformer, network: nn.Module) -> Teacher:
    """Return a network as a cell's teacher, on the student's device."""
    by_tokens = cell.recipe.distillation in TAUGHT_BY_TOKENS
    if not by_tokens:
        student.set_distilled_training(True)
    device = next(student.parameters()).device
    return Teacher(network.to(device), with_tokens=by_tokens)


def check_distillation(
    cell: Cell,
    student: ReducedVisionTransformer,
    dataset: ImageDataset,
    weights: Path | None = None,
) -> None:
    """Check all that can be known of a cell's distillation without loading anybody's weights.

    Args:
        cell: What is to be trained.
        student: The cell's model, its weights whichever.
        dataset: What it is taught on.
        weights: Folder of pretrained weights, whose configurations say what they are.

    Raises:
        ValueError: The recipe's distillation does not fit method, host, dataset or teacher.
    """
    kind = cell.recipe.distillation
    if kind == "none":
        return
    if kind == "dynamicvit" and not any(stage.masks_in_training for stage in student.stages):
        raise ValueError(
            f"distillation is 'dynamicvit', but must be none, soft or hard for {cell.method}, "
            "which learns no decisions; in a recipe, `method: {dynamicvit: {distillation: "
            "dynamicvit}}` reaches that method alone"
        )
    if kind not in TAUGHT_BY_TOKENS and not hasattr(student, "head_dist"):
        raise ValueError(
            f"distillation is {kind!r}, but must be none, dynamicvit or idlevit for {cell.host}, "
            "which has no distillation head as timm's deit_*_distilled_* have"
        )
    if kind not in TAUGHT_BY_TOKENS and dataset.task == "multi_label":
        raise ValueError(
            f"distillation is {kind!r}, but must be none, dynamicvit or idlevit for "
            f"{dataset.name}, whose images have several labels"
        )
    if not cell.recipe.taught_by_baseline:
        classes = len(dataset.class_names)
        with torch.device("meta"):  # Its shape alone is of interest, not its memory.
            network = pretrained_teacher(cell, classes, weights, pretrained=False)
        _check_patches(cell, student, network)


def pretrained_teacher(
    cell: Cell, num_classes: int, weights: Path | None, *, pretrained: bool = True
) -> nn.Module:
    """Build a teacher that is no cell as it was trained, head and all.

    Args:
        cell: Names it.
        num_classes: Of the cell's dataset.
        weights: Folder of pretrained weights, see `HostSource.find`.
        pretrained: Load its weights; False leaves them random.

    Raises:
        ValueError: It is unknown, or tells another number of classes apart.
        OSError: Its weights can be neither read nor downloaded.
    """
    source = HostSource.find(cell.teacher, weights, any_network=True)
    if source.config["num_classes"] != num_classes:
        raise ValueError(
            f"teacher is {cell.teacher!r}, which tells {source.config['num_classes']} classes "
            f"apart, but must tell the dataset's {num_classes}"
        )
    if not source.is_vit:
        return _network(source, cell.recipe.image_size, pretrained=pretrained)
    return build_host(
        cell.teacher,
        num_classes=num_classes,
        dataset=source.trained_on,
        pretrained=pretrained,
        image_size=cell.recipe.image_size,
        weights=weights,
    )


def _check_patches(cell: Cell, student: ReducedVisionTransformer, network: nn.Module) -> None:
    """Compare the tokens of student and teacher, where the teacher's are the example."""
    if cell.recipe.distillation not in TAUGHT_BY_TOKENS:
        return
    ours, theirs = (_patch_shape(model) for model in (student, network))
    if ours != theirs:
        raise ValueError(
            f"teacher is {cell.teacher!r} with patch tokens {theirs}, "
            f"but must have the student's, {ours} (number, channels)"
        )


def _patch_shape(network: nn.Module) -> tuple[int, int] | None:
    if not isinstance(network, VisionTransformer):
        return None
    return network.patch_embed.num_patches, network.embed_dim


def _trained_cell(
    cell: Cell, num_classes: int, folder: StorePath | None, weights: Path | None
) -> nn.Module:
    if folder is None:
        raise ValueError(f"the folder of {cell.prerequisite}, the teacher, is not given")
    stored = CellFolder(folder)
    found = stored.cell()
    if found.id != cell.prerequisite:
        raise ValueError(f"{folder} has {found.id}, but must have {cell.prerequisite}, the teacher")
    network = build_model(found, num_classes, pretrained=False, weights=weights)
    network.load_state_dict(load_safetensors(stored.load_best()))
    return network


def _network(source: HostSource, image_size: int, *, pretrained: bool) -> nn.Module:
    """Build a network that is no Vision Transformer."""
    if pretrained and source.candidates and source.file is None:
        raise OSError(f"teacher {source.name}: its weights are missing: {source.problem()}")
    # Others take images of any size, and timm refuses to pass one on.
    size = {"img_size": image_size} if source.config.get("fixed_input_size") else {}
    from_timm = pretrained and source.file is None
    network: nn.Module = timm.create_model(
        source.architecture, **source.arguments | size, pretrained=from_timm
    )
    if pretrained and source.file is not None:
        network.load_state_dict(read_weights(source.file))
    return network
