"""Loading weights into a model from the files of this project, timm and published code."""

import argparse
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from timm.layers import resample_abs_pos_embed
from timm.models import VisionTransformer, clean_state_dict
from torch import Tensor

from reduction.checkpoint_files import read_checkpoint_file

_WEIGHTS = ("state_dict", "model")
_EMA_WEIGHTS = ("state_dict_ema", "model_ema")
_REPORTED = ("args", "epoch", "metric", "best", "best_ema", "ema_best")

_FORMATS = {
    "ema_best": "token-reduction",
    "reduction_loc": "token-reduction",
    "base_keep_rate": "evit",
    "best_ema": "dynamicvit",
    "base_rate": "dynamicvit",
    "state_dict": "timm",
    "state_dict_ema": "timm",
    "model": "deit",
}
"""Entry of the file, or training argument, -> the code that saves it; the first one found tells."""

_LAYERS = {
    "in_conv.0": "in_norm",
    "in_conv.1": "in_fc",
    "out_conv.0": "out_fc1",
    "out_conv.2": "out_fc2",
    "out_conv.4": "out_fc3",
    "weight.0": "norm",
    "weight.1": "fc1",
    "weight.3": "fc2",
    "v": "centers",
}
"""Published name of a layer in a stage -> ours: DynamicViT's predictor, SiT's, Sinkhorn's."""


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint file was, and what of it was used."""

    format: str
    """Whose layout it is: `state dict` (bare, ours and timm's alike), `timm` (its training
    script), `deit` (weights under `model`, as in much code that builds on it), `evit`,
    `dynamicvit` or `token-reduction` (the published study)."""
    weights: Literal["plain", "ema"]
    """Which were loaded: those trained or their exponential moving average."""
    epoch: int | None
    """As in the file; None where it has none."""
    accuracy: float | None
    """Best validation score of the loaded kind, as in the file; None where it has none."""
    arguments: dict[str, Any]
    """The training script's arguments: plain numbers, strings, lists and dictionaries."""
    resized: tuple[str, ...]
    """Parameters resampled to the model's grid."""
    left_out: tuple[str, ...]
    """Entries of the file that were not used, such as `optimizer`."""


def load_checkpoint(
    model: VisionTransformer, path: str | Path, *, allow_code: bool = False
) -> CheckpointInfo:
    """Load all weights of a model from a file; every parameter must be there, and no other.

    Reads state dicts (safetensors or `torch.save`) of this project and timm, and checkpoints of
    the training scripts of timm, DeiT, EViT, DynamicViT and of Haurum et al., Which Tokens to
    Use?, ICCV Workshops 2023. Of two sets of weights the moving average is taken where the file
    says that it is the better one (`ema_best`, or `best-ema` as its epoch) or is by timm, as timm
    does. Names may all have a prefix, such as `model.` or `backbone.`. Only weights are taken over:
    how many tokens a stage keeps, also where the published code rounds otherwise, is up to the
    model. A position embedding of another square grid is resampled.

    Args:
        model: A reduced model, or a plain host (such as `reduction.unreduce(model)`, which shares
            its weights). Left as it is where loading fails.
        path: The file, safetensors or PyTorch's own format, whatever its name is.
        allow_code: Run code that the file may hold. Without, it is refused: only tensors, plain
            values, argument namespaces, paths and NumPy scalars are read.

    Raises:
        TypeError: `model` is not a timm `VisionTransformer`.
        ValueError: The file is missing, damaged, no checkpoint or asks for code, or its parameters
            are not those of the model.
    """
    if not isinstance(model, VisionTransformer):
        raise TypeError(f"model is a {type(model).__name__}, but must be a timm VisionTransformer")
    path = Path(path)
    entries, entry = _read(path, allow_code=allow_code)
    resized = load_weights(model, _our_names(entries[entry]), path)
    return _describe(entries, entry, resized)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights that `load_checkpoint` would load from a file, under our names.

    Raises:
        ValueError: The file is missing, damaged, no checkpoint or asks for code.
    """
    entries, entry = _read(path, allow_code=False)
    return _our_names(entries[entry])


def load_weights(
    model: VisionTransformer, weights: Mapping[str, Tensor], path: Path
) -> tuple[str, ...]:
    """Load weights from the file `path` into a model, as `load_checkpoint` does.

    Returns:
        The parameters resampled to the model's grid.

    Raises:
        ValueError: The parameters are not those of the model, which is left as it was.
    """
    weights = dict(weights)
    resized = _resample_position_embedding(model, weights)
    _check(path, model.state_dict(), weights)
    model.load_state_dict(weights)
    return resized


def num_classes_of(weights: Mapping[str, Tensor]) -> int:
    """Return the number of classes of a classifier's weights, 0 where they have no head."""
    return sum(weights["head.weight"].shape[:1]) if "head.weight" in weights else 0


def _read(path: Path, *, allow_code: bool) -> tuple[Mapping[str, Any], str]:
    """Return the entries of a file, and the name of the one whose weights to load."""
    content = read_checkpoint_file(path, allow_code=allow_code)
    entries = {"": content} if _is_state_dict(content) else content
    return entries, _choose(path, entries)


def _our_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = clean_state_dict(weights)
    start = len(_prefix(weights))
    return {_our_name(name[start:]): x for name, x in weights.items()}


def _prefix(names: Iterable[str]) -> str:
    """Return what stands before the host's own name in all names, such as `backbone.` or ``."""
    names = list(names)
    found = next((name for name in names if ".patch_embed." in name), "")
    prefix = found[: found.find("patch_embed.")]
    return prefix if all(name.startswith(prefix) for name in names) else ""


def _is_state_dict(value: object) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(name, str) and isinstance(x, Tensor) for name, x in value.items())


def _choose(path: Path, entries: object) -> str:
    """Return the name of the entry whose weights to load."""
    if not isinstance(entries, Mapping):
        raise ValueError(f"{path} holds a {type(entries).__name__}, but must hold a state dict")
    if "" in entries:
        return ""
    names = _EMA_WEIGHTS if _prefers_average(entries) else _WEIGHTS
    for name in names:
        if _is_state_dict(entries.get(name)):
            return name
    found = _listed([str(name) for name in entries]) or "nothing"
    raise ValueError(f"{path} holds {found}, but must hold a state dict as {' or '.join(names)}")


def _prefers_average(entries: Mapping[str, Any]) -> bool:
    if "ema_best" in entries:
        return bool(entries["ema_best"])
    return entries.get("state_dict_ema") is not None or entries.get("epoch") == "best-ema"


def _our_name(name: str) -> str:
    """Return our name of a parameter that the published study, DynamicViT or DeiT III renames."""
    name = re.sub(r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma", name)
    return re.sub(
        r"^(?:score_predictor|cluster_layers)\.(\d+)\.((?:in_conv|out_conv|weight)\.\d+|\w+)",
        lambda match: f"stages.{match[1]}.{_LAYERS.get(match[2], match[2])}",
        name,
    )


def _resample_position_embedding(
    model: VisionTransformer, weights: dict[str, Tensor]
) -> tuple[str, ...]:
    """Bring the position embedding to the model's grid in place; return the names resampled."""
    own, given = model.pos_embed, weights.get("pos_embed")
    if own is None or given is None or given.shape == own.shape:
        return ()
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    if given.dim() != 3 or given.shape[::2] != own.shape[::2] or not _is_grid(given, prefix):
        return ()
    weights["pos_embed"] = resample_abs_pos_embed(
        given, new_size=list(model.patch_embed.grid_size), num_prefix_tokens=prefix
    )
    return ("pos_embed",)


def _is_grid(position_embedding: Tensor, prefix: int) -> bool:
    patches = position_embedding.shape[1] - prefix
    return patches > 0 and math.isqrt(patches) ** 2 == patches


def _check(path: Path, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise one error that names all parameters of the file that are not those of the model."""
    problems = {
        "missing": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
        "of another shape": [
            f"{name} {list(given[name].shape)}, but must be {list(own[name].shape)}"
            for name in own
            if name in given and given[name].shape != own[name].shape
        ],
        "not of floating-point numbers": [
            name
            for name in own
            if name in given and not (given[name].is_floating_point() and _is_dense(given[name]))
        ],
    }
    found = [f"{len(names)} {what} ({_listed(names)})" for what, names in problems.items() if names]
    if found:
        hint = _hint(own, given, problems["missing"])
        raise ValueError(f"{path} does not fit the model: {', '.join(found)}{hint}")


def _is_dense(x: Tensor) -> bool:
    return x.layout is torch.strided


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _hint(own: Mapping[str, Tensor], given: Mapping[str, Tensor], missing: list[str]) -> str:
    if ("dist_token" in given) != ("dist_token" in own):
        without = "" if "dist_token" in given else "out"
        return f"; it is of a host with{without} a distillation token (timm's *_distilled_*)"
    if not any(name in own for name in given):
        return "; no name of the file is one of the model's"
    classes = num_classes_of(given)
    if classes != num_classes_of(own):
        return f"; build the model with num_classes={classes}"
    if missing and all(name.startswith("stages.") for name in missing):
        return "; the weights of a host alone go into reduction.unreduce(model)"
    return ""


def _describe(entries: Mapping[str, Any], entry: str, resized: tuple[str, ...]) -> CheckpointInfo:
    averaged = entry in _EMA_WEIGHTS
    arguments = _plain(entries.get("args"))
    arguments = arguments if isinstance(arguments, dict) else {}
    epoch = _plain(entries.get("epoch"))
    best = _plain(entries.get("best_ema" if averaged else "best", entries.get("metric")))
    signs = (name for sign, name in _FORMATS.items() if sign in entries or sign in arguments)
    return CheckpointInfo(
        format=next(signs, "state dict"),
        weights="ema" if averaged else "plain",
        epoch=epoch if isinstance(epoch, int) else None,
        accuracy=float(best) if isinstance(best, (int, float)) else None,
        arguments=arguments,
        resized=resized,
        left_out=tuple(str(name) for name in entries if name not in (entry, *_REPORTED)),
    )


def _plain(value: Any) -> Any:
    """Return a value as JSON could hold it; what is no plain value becomes its text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, type(None))) else str(value)
