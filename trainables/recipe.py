"""The finetuning recipe: every value of the protocol as a validated field.

Defaults are the values published for ImageNet (Haurum et al., "Which Tokens to Use?",
ICCV-W 2023). Every field can be overridden in a study file, by dataset, method or capacity.
"""

import re
from typing import Annotated, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]

NO_EFFECT_ON_OUTCOME: JsonDict = {"outcome": False}
"""Marks a field that changes speed or safety but never a cell's result, hence not its id."""
ADDED_LATER: JsonDict = {"outcome": "where it is not the default"}
"""Marks a field that cells have had since their ids were first given: its default leaves the id
as it was."""

WHERE_BACKBONE_DIFFERS: JsonDict = {"outcome": "where the backbone has a rate of its own"}
"""Marks the choice of how embeddings train: nothing follows from it where all rates are alike.
Cells from before there was a choice trained them as the head, which is no part of an id."""

WITH_LORA: JsonDict = {"outcome": "where the backbone is adapted"}
"""Marks the size of adapters: nothing follows from it where there are none."""

DISTILLED_BY = "distillation"
BASELINE_TEACHER = "baseline"
"""Stands for the unreduced cell of the same dataset, capacity and seed."""


RAND_AUGMENT = re.compile(
    r"m\d+|n[1-9]\d*|p(0|0?\.\d+|1|1\.0+)|mstd(\d+|\d*\.\d+)|mmax\d+|inc[01]|t(weights|3aw?)"
)
"""A section of timm's RandAugment specification. timm ignores or misreads whatever else there is:
https://github.com/huggingface/pytorch-image-models/blob/v1.0.31/timm/data/auto_augment.py"""


def check_rand_augment(specification: str) -> str:
    """Return a RandAugment specification as it is; ValueError where timm would not follow it."""
    first, *sections = specification.split("-")
    names = [re.sub(r"(?<!^t)\d.*|(?<=^t).*", "", section) for section in sections]
    if first != "rand" or not all(map(RAND_AUGMENT.fullmatch, sections)):
        wrong = next((s for s in sections if not RAND_AUGMENT.fullmatch(s)), first)
        raise ValueError(
            f"{specification!r} has the section {wrong!r}, but must be 'rand' and any of -m9 "
            "(magnitude), -n2 (operations), -p0.5 (probability), -mstd0.5 (noise), -mmax10, "
            "-inc1, -tweights, -t3a and -t3aw"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"{specification!r} has a section twice, but must have each once at most")
    return specification


def only_with(*kinds: str) -> JsonDict:
    """Mark a field that decides a cell's result with these kinds of `distillation` only."""
    return {DISTILLED_BY: list(kinds)}


class Recipe(BaseModel):
    """How one cell is finetuned and evaluated."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    # Start
    task: Literal["embedding"] | None = Field(default=None, json_schema_extra=ADDED_LATER)
    """What the images are asked: their labels (`null`), or with `embedding` only for features
    without labels: nothing trains (`epochs: 0`), and a cell is as good as its pooled features are
    like those of its host without reduction."""
    host: str = "deit_{capacity}_patch16_224.fb_in1k"
    """A timm VisionTransformer, `local-dir:FOLDER` (a folder with `config.json` and weights, in the
    layout of the Hugging Face hub), `digits_tiny_patch4_32` or `digits_small_patch4_32`, or
    `scenes_tiny_patch8_64` or `scenes_small_patch8_64` for `digits_scenes`. `{capacity}` is
    replaced by the cell's capacity."""
    pretrained: bool = True
    """Start from the host's pretrained weights; `false` starts from random ones."""
    image_size: Annotated[int, Field(gt=0)] = 224
    """Side of the square input in pixels, above 0. The position embedding is resampled where it
    differs from the host's own size."""
    crop_ratio: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Evaluation with a single label: the short side is resized to `image_size / crop_ratio`,
    rounded down, and the centre is cropped; in (0, 1]."""
    cache: Annotated[int, Field(gt=0)] | None = Field(default=None, json_schema_extra=ADDED_LATER)
    """Shorter side in pixels, at least `image_size`, to which larger images are reduced once,
    before all else; one image cache per node holds the result. `null` reads and decodes the files
    every time."""

    # Optimiser
    lr: Positive = 1e-3
    """Learning rate at an effective batch of `lr_reference_batch` images, above 0. It scales
    linearly with `batch_size * accumulation`."""
    lr_reference_batch: Annotated[int, Field(gt=0)] = 1024
    """Effective batch in images at which `lr` applies unscaled, above 0."""
    min_lr: Annotated[float, Field(ge=0)] = 1e-5
    """Final learning rate of the cosine, at least 0; not scaled."""
    warmup_lr: Annotated[float, Field(ge=0)] = 1e-6
    """Initial learning rate of the linear warm-up, at least 0; not scaled."""
    warmup_prefix: bool = False
    """`true` starts the cosine after the warm-up. `false` runs the cosine over all steps and
    lets the warm-up cover its beginning, as the published study did."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Weight decay of AdamW, at least 0. It never applies to biases, 1-d parameters,
    `pos_embed`, `cls_token`, `dist_token` or what else the host's class takes out
    (`no_weight_decay`)."""
    backbone: Literal["full", "frozen", "lora"] = Field(
        default="full", json_schema_extra=ADDED_LATER
    )
    """What trains of a pretrained host beside its head: all (`full`), nothing, embeddings included
    (`frozen`), or low-rank adapters of its blocks' linear layers (`lora`: Hu et al., ICLR 2022,
    through the package `peft`), which are merged into the weights that are evaluated and saved. A
    method's own parameters always train."""
    lora_rank: Annotated[int, Field(gt=0)] = Field(default=8, json_schema_extra=WITH_LORA)
    """Rank of the adapters, above 0."""
    lora_alpha: Positive = Field(default=16.0, json_schema_extra=WITH_LORA)
    """Adapters count by `lora_alpha / lora_rank`; above 0."""
    embeddings: Literal["backbone", "head"] = Field(
        default="backbone", json_schema_extra=WHERE_BACKBONE_DIFFERS
    )
    """Whether `pos_embed` and `patch_embed` of a pretrained host train as the backbone does or at
    the head's rate. The published study did the latter, which forgets what was learnt where images
    are few. Without pretrained weights they always train at the head's rate."""
    backbone_lr_scale: Annotated[float, Field(ge=0)] = 1.0
    """Learning rate of the backbone relative to `lr`, at least 0."""
    backbone_freeze_epochs: Annotated[int, Field(ge=0)] = 0
    """Initial epochs in which the backbone's learning rate is 0."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, json_schema_extra=ADDED_LATER
    )
    """Learning rate of each block of the backbone relative to that of the next, in (0, 1]; of the
    embeddings relative to the first. `null`: the same for all."""
    head_lr_scale: Annotated[float, Field(ge=0)] = Field(default=1.0, json_schema_extra=ADDED_LATER)
    """Learning rate of the head relative to `lr`, at least 0."""
    clip_grad: Positive | None = None
    """Largest gradient norm, above 0; `null` does not clip."""
    drop_path: Fraction = 0.1
    """Stochastic depth rate of the last block, 0 to 1; it rises linearly from 0 at the first."""

    # Length and batches
    epochs: Annotated[int, Field(ge=0)] = 30
    """Passes over the training split; `0` evaluates the host without training."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    """Epochs of linear warm-up, updated every optimiser step; at most `epochs`."""
    batch_size: Annotated[int, Field(gt=0)] = 256
    """Images per forward pass of the cell, shared among its workers; above 0, and even with mixup
    or CutMix."""
    accumulation: Annotated[int, Field(gt=0)] = 2
    """Forward passes per optimiser step, above 0. The last step of an epoch may have fewer."""
    precision: Literal["auto", "bf16", "fp16", "off"] = "auto"
    """Autocast: `bf16`, `fp16`, `off` (float32) or `auto`, which is bf16 on a GPU that supports
    it, fp16 on other GPUs and off on a CPU."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = 0.99996
    """Decay per optimiser step of the averaged weights, in (0, 1); `null` keeps no average. The
    better of model and average counts."""
    select_on: Literal["val", "holdout"] = "val"
    """Split that picks the best epoch: `val`, the reported split, as published, or `holdout`, 5 %
    of the training split that is not trained on."""

    # Augmentation, classification
    crop_scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    """Smallest and largest share of the image's area that the random crop takes, 0 to 1."""
    horizontal_flip: Fraction = 0.5
    """Probability of mirroring an image."""
    color_jitter: Annotated[float, Field(ge=0)] = 0.3
    """Strength of brightness, contrast and saturation jitter, at least 0; used only where
    `rand_augment` is `null`."""
    rand_augment: Annotated[str, AfterValidator(check_rand_augment)] | None = "rand-m9-mstd0.5-inc1"
    """RandAugment as timm writes it (`rand-...`), also for several labels; `null` turns it
    off."""
    random_erasing: Fraction = 0.25
    """Probability of replacing a rectangle by noise."""
    mixup: Annotated[float, Field(ge=0)] = 0.8
    """Alpha of mixup, at least 0; `0` turns it off."""
    cutmix: Annotated[float, Field(ge=0)] = 1.0
    """Alpha of CutMix, at least 0; `0` turns it off."""
    mixup_switch: Fraction = 0.5
    """Probability of CutMix where both mixup and CutMix are on."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the target spread over all classes, in [0, 1)."""
    repeated_augmentation: Annotated[int, Field(gt=0)] = Field(
        default=1, json_schema_extra=ADDED_LATER
    )
    """Differently augmented copies of an image in an epoch, above 0; the epoch has as
    many fewer images and is cut to a multiple of 256 if it has 256 or more. Published: `3` on
    several GPUs. Also for several labels."""

    # Augmentation and loss, multi-label
    cutout: Fraction = 0.5
    """Side of the square that is cut out, relative to the image's side, 0 to 1."""
    asymmetric_gamma_negative: Annotated[float, Field(ge=0)] = 4.0
    """Focusing exponent of the asymmetric loss on negatives, at least 0."""
    asymmetric_gamma_positive: Annotated[float, Field(ge=0)] = 0.0
    """Focusing exponent of the asymmetric loss on positives, at least 0."""
    asymmetric_clip: Fraction = 0.05
    """Probability by which the asymmetric loss shifts negatives, 0 to 1."""

    # Methods whose decisions are learned (dynamicvit)
    keep_rate_weight: Annotated[float, Field(ge=0)] = 2.0
    """Weight of the squared distance between the share of tokens kept and the keep rate, at
    least 0."""

    # Losses of other methods
    token_cut_weight: Annotated[float, Field(ge=0)] = Field(
        default=20.0, json_schema_extra=ADDED_LATER
    )
    """`idlevit`: weight of the attention that crosses between tokens that take part and others,
    mean over blocks; at least 0."""
    flops_weight: Annotated[float, Field(ge=0)] = Field(default=5.0, json_schema_extra=ADDED_LATER)
    """`diffrate` with `learned: true`: weight of the squared distance, in billions of
    multiply-accumulates, from the cost that the keep rate asks for; at least 0. Published for
    DeiT, of 1 to 18 billion: smaller hosts need more."""
    consistency_weight: Annotated[float, Field(ge=0)] = Field(
        default=3.0, json_schema_extra=ADDED_LATER
    )
    """`mctf`: weight of the distance from a second pass that removes 0 to 7 tokens at each stage,
    drawn anew every step; at least 0."""

    # Distillation
    distillation: Literal["none", "dynamicvit", "idlevit", "soft", "hard"] = Field(
        default="none", json_schema_extra=only_with("dynamicvit", "idlevit", "soft", "hard")
    )
    """Loss that a teacher adds. `dynamicvit`: both terms of DynamicViT (Rao et al., NeurIPS
    2021), for that method only. `idlevit`: both terms of IdleViT (Xu et al., AJCAI 2023), with any
    method. `soft`, `hard`: DeiT's term for the distillation head (Touvron et
    al., ICML 2021), from the teacher's probabilities or its prediction; for a single label, on
    hosts with such a head (timm's `deit_*_distilled_*`), with any method."""
    teacher: str = Field(
        default=BASELINE_TEACHER,
        json_schema_extra=only_with("dynamicvit", "idlevit", "soft", "hard"),
    )
    """`baseline`, the `deit` cell of the same dataset, capacity, seed and blocks, which is trained
    first. Or a network with pretrained weights for the dataset's classes: any model of timm,
    `local-dir:FOLDER` or a demo host, with `{capacity}` replaced. For `dynamicvit` it must have
    the student's patch tokens."""
    distillation_alpha: Fraction = Field(default=0.5, json_schema_extra=only_with("soft", "hard"))
    """`soft`, `hard`: share of the teacher's term in the loss, 0 to 1; the
    classification loss has the rest."""
    distillation_tau: Positive = Field(default=1.0, json_schema_extra=only_with("soft"))
    """`soft`: temperature of both distributions, above 0."""
    classification_weight: Annotated[float, Field(ge=0)] = Field(
        default=1.0, json_schema_extra=only_with("dynamicvit")
    )
    """`dynamicvit`: weight of the classification loss, at least 0."""
    teacher_logits_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.5, json_schema_extra=only_with("dynamicvit", "idlevit")
    )
    """`dynamicvit`, `idlevit`: weight of KL(teacher, student) of the logits, averaged over
    images; at least 0."""
    teacher_tokens_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.5, json_schema_extra=only_with("dynamicvit")
    )
    """`dynamicvit`: weight of the distance between the kept patch tokens, after the
    last norm, and the teacher's; at least 0."""
    teacher_tokens_loss: Literal["mse", "kl"] = Field(
        default="mse", json_schema_extra=only_with("dynamicvit")
    )
    """`dynamicvit`: that distance is the squared error (`mse`) or KL(teacher, student)
    over channels (`kl`), averaged over kept tokens."""

    teacher_direction_weight: Annotated[float, Field(ge=0)] = Field(
        default=1000.0, json_schema_extra=only_with("idlevit")
    )
    """`idlevit`: weight of the squared error between the features that both networks' heads
    classify, scaled to unit length; at least 0. Published with a `teacher_logits_weight` of 10."""

    # Speed and safety
    checkpoint_minutes: Positive = Field(default=10.0, json_schema_extra=NO_EFFECT_ON_OUTCOME)
    """Longest time in minutes between two saved states, above 0. The end of every epoch
    saves one as well."""
    loader_workers: Annotated[int, Field(ge=0)] = Field(
        default=0, json_schema_extra=NO_EFFECT_ON_OUTCOME
    )
    """Processes per worker that decode and augment; with `0` the training process does."""
    shared_input: bool = Field(default=False, json_schema_extra=NO_EFFECT_ON_OUTCOME)
    """Decode and augment once for all cells on a node that need the same batches."""
    compile: bool = Field(default=False, json_schema_extra=NO_EFFECT_ON_OUTCOME)
    """Train and evaluate through `torch.compile`, which rounds sums differently. The first step
    and the first batch of an evaluation take minutes. Cells that cannot be compiled (no compiler,
    an unsupported operation, and `ats`, whose batches differ in length) run uncompiled, and the
    launch prints why. A smaller last batch is never compiled."""
    grad_checkpointing: bool = Field(default=False, json_schema_extra=NO_EFFECT_ON_OUTCOME)
    """Recompute blocks in the backward pass instead of keeping their activations: less
    memory, more time, the same gradients. Blocks that reduce tokens are not recomputed."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.warmup_epochs > self.epochs > 0:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs}, but must be at most epochs ({self.epochs})"
            )
        if self.batch_size % 2 and (self.mixup or self.cutmix):
            raise ValueError(
                f"batch_size is {self.batch_size}, but must be even with mixup or cutmix"
            )
        if self.cache is not None and self.cache < self.image_size:
            raise ValueError(
                f"cache is {self.cache}, but must be at least image_size ({self.image_size})"
            )
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale is {self.crop_scale}, but must ascend")
        return self

    @model_validator(mode="after")
    def _embeddings_are_not_trained(self) -> Self:
        if self.task == "embedding" and self.epochs:
            raise ValueError(f"epochs is {self.epochs}, but must be 0 where task is 'embedding'")
        return self

    @model_validator(mode="after")
    def _only_what_is_pretrained_rests(self) -> Self:
        if self.backbone == "full":
            return self
        if not self.pretrained:
            raise ValueError(
                f"backbone is {self.backbone!r}, but must be 'full' where pretrained is false"
            )
        if self.embeddings == "head":
            raise ValueError(
                f"embeddings is 'head', but must be 'backbone' where backbone is {self.backbone!r}"
            )
        return self

    @property
    def taught_by_baseline(self) -> bool:
        """Whether the teacher is the unreduced cell, which then has to be trained first."""
        return self.distillation != "none" and self.teacher == BASELINE_TEACHER

    @property
    def embeddings_follow_backbone(self) -> bool:
        """Whether the embeddings train as the backbone does."""
        return self.pretrained and self.embeddings == "backbone"

    @property
    def _backbone_differs(self) -> bool:
        own_rate = self.backbone_lr_scale != 1 or self.layer_decay not in (None, 1)
        return bool(own_rate or self.backbone_freeze_epochs)

    def outcome(self) -> dict[str, object]:
        """Return the fields that decide a cell's result, as plain JSON values."""
        fields = type(self).model_fields.items()
        left_out = {name for name, field in fields if not self._counts(name, field)}
        return self.model_dump(mode="json", exclude=left_out)

    def _counts(self, name: str, field: FieldInfo) -> bool:
        mark = field.json_schema_extra
        if mark == WHERE_BACKBONE_DIFFERS:
            return self.embeddings_follow_backbone and self._backbone_differs
        if mark == WITH_LORA:
            return self.backbone == "lora"
        if mark == ADDED_LATER:
            return bool(getattr(self, name) != field.default)
        if isinstance(mark, dict) and DISTILLED_BY in mark:
            return self.distillation in cast("list[str]", mark[DISTILLED_BY])
        return mark != NO_EFFECT_ON_OUTCOME
