"""Where a host's architecture and pretrained weights are found: package, folder, file or hub."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HTTPError
from timm.models import is_model_in_modules
from timm.models._hub import hf_split, load_model_config_from_path

_TINY = {"embed_dim": 32, "num_heads": 2}
_SMALL = {"embed_dim": 48, "num_heads": 3}
DEMO_HOSTS: dict[str, dict[str, int]] = {
    "digits_tiny_patch4_32": {"img_size": 32, "patch_size": 4, **_TINY},
    "digits_small_patch4_32": {"img_size": 32, "patch_size": 4, **_SMALL},
    "scenes_tiny_patch8_64": {"img_size": 64, "patch_size": 8, **_TINY},
    "scenes_small_patch8_64": {"img_size": 64, "patch_size": 8, **_SMALL},
}
"""DeiT-shaped hosts whose weights lie in the package, made by `experiments/pretrain_demo.py` and
`experiments/pretrain_scenes.py`."""

DEMO_SHAPE = {"depth": 12, "mlp_ratio": 4.0, "qkv_bias": True}
DEMO_CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 10,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "first_conv": "patch_embed.proj",
    "classifier": "head",
}
"""What timm is told of them; `DEMO_SHAPE` and a row of `DEMO_HOSTS` change the architecture."""

VIT_MODULES = ("deit", "vision_transformer", "vision_transformer_hybrid")
"""Modules of timm whose models are `VisionTransformer`s."""

LOCAL = "local-dir:"
"""Prefix of a folder with `config.json` and weights, as the Hugging Face hub keeps a model."""

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in such a folder, the first one found is read."""

FILE_SUFFIXES = (".safetensors", ".pth")
HUB_SECONDS = 10.0
"""How long to wait for the hub to answer."""

IMAGENET_CLASSES = 1000
WEIGHTS_FOLDER = Path(__file__).parents[1] / "hosts"


TimmArguments = dict[str, Any]
"""What timm takes or knows of a model, by timm's names."""


@dataclass(frozen=True, kw_only=True)
class HostSource:
    """What a host is, and where its pretrained weights are."""

    name: str
    architecture: str
    """timm's name of the model."""
    arguments: TimmArguments = field(default_factory=dict)
    """Changes to timm's architecture."""
    config: TimmArguments
    """What timm knows of the pretrained weights: classes, mean and standard deviation of pixels."""
    candidates: tuple[Path, ...] = ()
    """Files that may hold the weights; the first that exists counts. Empty: timm fetches them."""

    @classmethod
    def find(cls, name: str, folder: Path | None = None, *, any_network: bool = False) -> Self:
        """Find out what a host is; whether its weights can be had is asked by `problem`.

        Args:
            name: A timm model, one of `DEMO_HOSTS`, or `local-dir:FOLDER` for a folder with
                `config.json` and weights, as the Hugging Face hub keeps a model.
            folder: Has the pretrained weights of timm models, as `NAME.safetensors`, `NAME.pth`
                or a folder `NAME` like the one above; None leaves it to timm to fetch them.
            any_network: Find networks that are no `VisionTransformer`, too: teachers.

        Raises:
            ValueError: If the host is unknown, or not a `VisionTransformer` where it must be one.
            OSError: If a local folder has no configuration.
        """
        if name in DEMO_HOSTS:
            side = DEMO_HOSTS[name]["img_size"]
            return cls(
                name=name,
                architecture="vit_tiny_patch16_224",
                arguments=DEMO_SHAPE | DEMO_HOSTS[name],
                config=DEMO_CONFIG | {"input_size": (3, side, side)},
                candidates=(WEIGHTS_FOLDER / f"{name}.safetensors",),
            )
        if name.startswith(LOCAL):
            return cls._from_folder(name, Path(name.removeprefix(LOCAL)), any_network=any_network)
        config = _timm_config(name, any_network=any_network)
        if folder is None:
            return cls(name=name, architecture=name, config=config)
        if (folder / name).is_dir():
            return cls._from_folder(name, folder / name, any_network=any_network)
        files = tuple(folder / f"{name}{suffix}" for suffix in FILE_SUFFIXES)
        in_folder = tuple(folder / name / file for file in HUB_FILES)
        return cls(name=name, architecture=name, config=config, candidates=files + in_folder)

    @classmethod
    def _from_folder(cls, name: str, folder: Path, *, any_network: bool) -> Self:
        try:
            config, architecture, arguments = load_model_config_from_path(folder)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            reason = f"{folder / 'config.json'} does not say what the host is"
            raise ValueError(f"{reason} ({type(error).__name__}: {error})") from error
        _timm_config(architecture, any_network=any_network)
        return cls(
            name=name,
            architecture=architecture,
            arguments=arguments,
            config=config,
            candidates=tuple(folder / file for file in HUB_FILES),
        )

    @property
    def file(self) -> Path | None:
        """The file that holds the weights, None where there is none."""
        return next((path for path in self.candidates if path.is_file()), None)

    @property
    def trained_on(self) -> str | None:
        """The dataset whose classes the pretrained head tells apart, where known."""
        if self.name in DEMO_HOSTS:
            record = json.loads((WEIGHTS_FOLDER / f"{self.name}.json").read_text())
            return str(record["dataset"])
        return "imagenet" if self.config.get("num_classes") == IMAGENET_CLASSES else None

    @property
    def is_vit(self) -> bool:
        """Whether it is a `VisionTransformer`."""
        return _is_vit(self.architecture)

    def problem(self) -> str | None:
        """Say why the weights cannot be had, None where a file or the hub has them."""
        if self.file is not None:
            return None
        if self.candidates:
            return f"looked for {_alternatives(self.candidates)}"
        hub = self.config.get("hf_hub_id")
        if hub:
            return _hub_problem(hub, self.config.get("hf_hub_filename"))
        return None if self.config.get("url") else "timm has no pretrained weights of it"


def _timm_config(name: str, *, any_network: bool) -> TimmArguments:
    try:
        known = timm.is_model(name.partition(".")[0]) if any_network else _is_vit(name)
        config = timm.get_pretrained_cfg(name) if known else None
    except RuntimeError:  # the tag after the dot is unknown
        config = None
    if config is None:
        host = ("host", "a VisionTransformer")
        what, kind = ("teacher", "baseline, a model") if any_network else host
        raise ValueError(
            f"{what} is {name!r}, but must be {kind} of timm, {LOCAL}FOLDER, or one of "
            f"{', '.join(DEMO_HOSTS)}"
        )
    return dict(config.to_dict())


def _is_vit(architecture: str) -> bool:
    return bool(is_model_in_modules(architecture.partition(".")[0], VIT_MODULES))


def _hub_problem(hub: str, filename: str | None) -> str | None:
    """Say why the hub's weights cannot be had: neither downloaded before nor there to download."""
    repository, revision = hf_split(hub)
    files = (filename,) if filename else HUB_FILES
    if any(
        isinstance(try_to_load_from_cache(repository, file, revision=revision), str)
        for file in files
    ):
        return None
    for file in files:
        try:
            get_hf_file_metadata(
                hf_hub_url(repository, file, revision=revision), timeout=HUB_SECONDS
            )
        except EntryNotFoundError:
            continue
        except (OSError, HTTPError) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            return f"{file} of {repository} is not in the hub's cache, and the hub says: {reason}"
        return None
    return f"{repository} on the hub has no {_alternatives(files)}"


def _alternatives(names: Iterable[object]) -> str:
    *others, last = map(str, names)
    return f"{', '.join(others)} or {last}" if others else last
