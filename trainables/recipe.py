"""The finetuning recipe: every value of the protocol as a validated field.

Defaults are the values published for ImageNet (Haurum et al., "Which Tokens to Use?",
ICCV-W 2023). Every field can be overridden in a study file, by dataset, method or capacity.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]

NO_EFFECT_ON_OUTCOME: JsonDict = {"outcome": False}
"""Marks a field that changes speed or safety but never a cell's result, hence not its id."""
ADDED_LATER: JsonDict = {"outcome": "where it is not the default"}
"""Marks a field that cells have had since their ids were first given: its default leaves the id
as it was."""


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
    """AdamW's decay; never applied to biases, 1-d parameters, `pos_embed` and `cls_token`."""
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

    # Speed and safety
    checkpoint_minutes: Positive = Field(default=10.0, json_schema_extra=NO_EFFECT_ON_OUTCOME)
    """Most minutes of work that a crash may cost; state is also saved at every epoch's end."""
    loader_workers: Annotated[int, Field(ge=0)] = Field(
        default=0, json_schema_extra=NO_EFFECT_ON_OUTCOME
    )
    """Processes that decode and augment; 0 does it in the training process."""

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
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale is {self.crop_scale}, but must ascend")
        return self

    def outcome(self) -> dict[str, Any]:
        """Return the fields that decide a cell's result, as plain JSON values."""
        left_out = {
            name
            for name, field in type(self).model_fields.items()
            if field.json_schema_extra == NO_EFFECT_ON_OUTCOME
            or (field.json_schema_extra == ADDED_LATER and getattr(self, name) == field.default)
        }
        return self.model_dump(mode="json", exclude=left_out)
