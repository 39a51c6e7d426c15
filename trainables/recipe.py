"""The finetuning recipe: every value of the protocol as a validated field.

Defaults are the values published for ImageNet (Haurum et al., "Which Tokens to Use?",
ICCV-W 2023). Every field can be overridden in a study file, by dataset, method or capacity.
"""

from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]

NO_EFFECT_ON_OUTCOME: JsonDict = {"outcome": False}
"""Marks a field that changes speed or safety but never a cell's result, hence not its id."""
ADDED_LATER: JsonDict = {"outcome": "where it is not the default"}
"""Marks a field that cells have had since their ids were first given: its default leaves the id
as it was."""

DISTILLED_BY = "distillation"
BASELINE_TEACHER = "baseline"
"""Stands for the unreduced cell of the same dataset, capacity and seed."""


def only_with(*kinds: str) -> JsonDict:
    """Mark a field that decides a cell's result with these kinds of `distillation` only."""
    return {DISTILLED_BY: list(kinds)}


class Recipe(BaseModel):
    """How one cell is finetuned and evaluated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Start
    host: str = "deit_{capacity}_patch16_224.fb_in1k"
    """The timm model (or embedded demo host) to start from; `{capacity}` is filled in."""
    pretrained: bool = True
    """Start from the host's pretrained weights rather than from random ones."""
    image_size: Annotated[int, Field(gt=0)] = 224
    """Side of the square input, in pixels."""
    crop_ratio: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Evaluation: share of the resized image's side that the centre crop keeps."""
    cache: Annotated[int, Field(gt=0)] | None = Field(default=None, json_schema_extra=ADDED_LATER)
    """Shorter side, in pixels, to which images are reduced before all else; they are kept so in
    one file a node. None reads and decodes the image files each time."""

    # Optimiser
    lr: Positive = 1e-3
    """Learning rate for an effective batch of `lr_reference_batch` images."""
    lr_reference_batch: Annotated[int, Field(gt=0)] = 1024
    """Effective batch, in images, at which `lr` is used unscaled."""
    min_lr: Annotated[float, Field(ge=0)] = 1e-5
    """Where the cosine ends; absolute, not scaled."""
    warmup_lr: Annotated[float, Field(ge=0)] = 1e-6
    """Where the linear warm-up starts; absolute, not scaled."""
    warmup_prefix: bool = False
    """True shifts the cosine to begin after the warm-up; the published study did not."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """AdamW's decay; never on biases, 1-d parameters, `pos_embed`, `cls_token`, `dist_token`."""
    backbone_lr_scale: Annotated[float, Field(ge=0)] = 1.0
    """Learning rate of the backbone relative to that of the new parts."""
    backbone_freeze_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs in which the backbone's learning rate is 0."""
    clip_grad: Positive | None = None
    """Largest allowed gradient norm; None does not clip."""
    drop_path: Fraction = 0.1
    """Stochastic depth rate of the last block."""

    # Length and batches
    epochs: Annotated[int, Field(ge=0)] = 30
    """Passes over the training split; 0 evaluates the host off the shelf."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    """Epochs of linear warm-up, stepped per optimiser step."""
    batch_size: Annotated[int, Field(gt=0)] = 256
    """Images per forward pass of the cell, over all of its workers."""
    accumulation: Annotated[int, Field(gt=0)] = 2
    """Forward passes per optimiser step."""
    precision: Literal["auto", "bf16", "fp16", "off"] = "auto"
    """Autocast: `auto` is bf16 where the GPU has it, else fp16; `off` on a CPU."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = 0.99996
    """Decay per optimiser step of the averaged weights; None keeps no average."""
    select_on: Literal["val", "holdout"] = "val"
    """Split that picks the best epoch: the reported one (as published) or 5 % of train."""

    # Augmentation, classification
    crop_scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    """Share of the image's area that RandomResizedCrop may take."""
    horizontal_flip: Fraction = 0.5
    """Probability of mirroring an image."""
    color_jitter: Annotated[float, Field(ge=0)] = 0.3
    """Strength of brightness, contrast and saturation jitter; used where RandAugment is off."""
    rand_augment: Annotated[str, Field(pattern="^rand-")] | None = "rand-m9-mstd0.5-inc1"
    """timm's RandAugment specification; None turns it off."""
    random_erasing: Fraction = 0.25
    """Probability of erasing a rectangle of pixels."""
    mixup: Annotated[float, Field(ge=0)] = 0.8
    """Alpha of mixup; 0 turns it off."""
    cutmix: Annotated[float, Field(ge=0)] = 1.0
    """Alpha of CutMix; 0 turns it off."""
    mixup_switch: Fraction = 0.5
    """Probability of CutMix where both mixup and CutMix are on."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Mass of the target spread over all classes."""
    repeated_augmentation: Annotated[int, Field(gt=0)] = Field(
        default=1, json_schema_extra=ADDED_LATER
    )
    """Differently augmented copies of an image in an epoch, which has as many fewer images."""

    # Augmentation and loss, multi-label
    cutout: Fraction = 0.5
    """Side of the square cut out of a multi-label training image, relative to the image's."""
    asymmetric_gamma_negative: Annotated[float, Field(ge=0)] = 4.0
    """Focusing exponent of the asymmetric loss on negatives."""
    asymmetric_gamma_positive: Annotated[float, Field(ge=0)] = 0.0
    """Focusing exponent of the asymmetric loss on positives."""
    asymmetric_clip: Fraction = 0.05
    """Probability by which the asymmetric loss shifts negatives."""

    # Methods whose decisions are learned (dynamicvit)
    keep_rate_weight: Annotated[float, Field(ge=0)] = 2.0
    """Weight of the squared distance between the share of tokens kept and the keep rate."""

    # Distillation
    distillation: Literal["none", "dynamicvit", "soft", "hard"] = Field(
        default="none", json_schema_extra=only_with("dynamicvit", "soft", "hard")
    )
    """What a teacher adds to the loss: DynamicViT's two terms (Rao et al., NeurIPS 2021), or DeiT's
    on the distillation head (Touvron et al., ICML 2021), from its probabilities or its choice."""
    teacher: str = Field(
        default=BASELINE_TEACHER, json_schema_extra=only_with("dynamicvit", "soft", "hard")
    )
    """`baseline`, the unreduced cell of the same dataset, capacity and seed, which is trained
    first; or a timm model with pretrained weights, `{capacity}` filled in."""
    distillation_alpha: Fraction = Field(default=0.5, json_schema_extra=only_with("soft", "hard"))
    """Share of the teacher's term in the loss; the classification loss has the rest."""
    distillation_tau: Positive = Field(default=1.0, json_schema_extra=only_with("soft"))
    """Temperature that softens both distributions."""
    classification_weight: Annotated[float, Field(ge=0)] = Field(
        default=1.0, json_schema_extra=only_with("dynamicvit")
    )
    """Weight of the classification loss."""
    teacher_logits_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.5, json_schema_extra=only_with("dynamicvit")
    )
    """Weight of the divergence of the logits from the teacher's."""
    teacher_tokens_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.5, json_schema_extra=only_with("dynamicvit")
    )
    """Weight of the distance of the kept tokens from the teacher's."""
    teacher_tokens_loss: Literal["mse", "kl"] = Field(
        default="mse", json_schema_extra=only_with("dynamicvit")
    )
    """That distance: the squared error, or the divergence over channels."""

    # Speed and safety
    checkpoint_minutes: Positive = Field(default=10.0, json_schema_extra=NO_EFFECT_ON_OUTCOME)
    """Most minutes of work that a crash may cost; state is also saved at every epoch's end."""
    loader_workers: Annotated[int, Field(ge=0)] = Field(
        default=0, json_schema_extra=NO_EFFECT_ON_OUTCOME
    )
    """Processes that decode and augment; 0 does it in the training process."""
    shared_input: bool = Field(default=False, json_schema_extra=NO_EFFECT_ON_OUTCOME)
    """Batches are shared with the cells of the same node that need the same ones."""
    compile: bool = Field(default=False, json_schema_extra=NO_EFFECT_ON_OUTCOME)
    """Train and evaluate through `torch.compile`, whose sums may be rounded otherwise."""
    grad_checkpointing: bool = Field(default=False, json_schema_extra=NO_EFFECT_ON_OUTCOME)
    """Compute blocks that do not reduce again in the backward pass rather than keep what they need
    for it: less memory, more time, the same gradients."""

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

    @property
    def taught_by_baseline(self) -> bool:
        """Whether the teacher is the unreduced cell, which then has to be trained first."""
        return self.distillation != "none" and self.teacher == BASELINE_TEACHER

    def outcome(self) -> dict[str, Any]:
        """Return the fields that decide a cell's result, as plain JSON values."""
        fields = type(self).model_fields.items()
        left_out = {name for name, field in fields if not self._counts(name, field)}
        return self.model_dump(mode="json", exclude=left_out)

    def _counts(self, name: str, field: FieldInfo) -> bool:
        mark = field.json_schema_extra
        if mark == ADDED_LATER:
            return bool(getattr(self, name) != field.default)
        if isinstance(mark, dict) and DISTILLED_BY in mark:
            return self.distillation in cast("list[str]", mark[DISTILLED_BY])
        return mark != NO_EFFECT_ON_OUTCOME
