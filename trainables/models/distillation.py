"""What a student learns from a teacher: the distances of DynamicViT and of DeiT."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class TeacherOutput:
    """What a teacher makes of a batch; B images, N0 patches, C channels."""

    logits: Tensor
    """[B, classes]."""
    patches: Tensor | None = None
    """[B, N0, C] patch tokens after the last norm, where tokens are asked for."""
    pooled: Tensor | None = None
    """[B, C] features that its head classifies, where tokens are asked for."""


class Teacher:
    """A frozen network that looks at the student's own images, as they are after mixing.

    Args:
        network: Any classifier; a timm `VisionTransformer` where `with_tokens`.
        with_tokens: Also return patch tokens and the features that the head classifies.
    """

    def __init__(self, network: nn.Module, *, with_tokens: bool) -> None:
        self.network: Any = network.eval().requires_grad_(False)
        self._with_tokens = with_tokens

    @torch.no_grad()
    def __call__(self, images: Tensor) -> TeacherOutput:
        """Return the output for `images`, [B, channels, height, width]."""
        if not self._with_tokens:
            return TeacherOutput(self.network(images))
        tokens = self.network.forward_features(images)
        patches = tokens[:, self.network.num_prefix_tokens :]
        pooled = self.network.forward_head(tokens, pre_logits=True)
        return TeacherOutput(self.network.forward_head(tokens), patches, pooled)


def soft_label_loss(logits: Tensor, teacher_logits: Tensor, tau: float = 1.0) -> Tensor:
    """Return tau^2 KL(softmax(teacher / tau) || softmax(student / tau)), in float32.

    Summed over classes and averaged over images, as the published study does; DeiT's own code
    averages over images x classes.

    Args:
        logits: The student's, [B, classes].
        teacher_logits: [B, classes].
        tau: Temperature, above 0.
    """
    divergence = functional.kl_div(
        (logits.float() / tau).log_softmax(dim=-1),
        (teacher_logits.float() / tau).log_softmax(dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return tau**2 * divergence


def hard_label_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the cross entropy with the teacher's choices, both [B, classes], in float32."""
    return functional.cross_entropy(logits.float(), teacher_logits.argmax(dim=-1))


def direction_loss(features: Tensor, teacher_features: Tensor) -> Tensor:
    """Return the mean squared error of features scaled to unit length, in float32.

    Args:
        features: The student's, [B, C].
        teacher_features: [B, C].
    """
    student, teacher = (
        functional.normalize(x.float(), dim=-1) for x in (features, teacher_features)
    )
    return functional.mse_loss(student, teacher)


def kept_tokens_loss(
    patches: Tensor, teacher_patches: Tensor, decision: Tensor, kind: Literal["mse", "kl"]
) -> Tensor:
    """Return how far the kept tokens are from the teacher's, in float32; 0 where none is kept.

    Args:
        patches: The student's patch tokens after the last norm, [B, N0, C].
        teacher_patches: [B, N0, C].
        decision: [B, N0], 1 for patches that the last stage keeps, else 0; it gets no gradient.
        kind: `mse`, the mean squared error over kept tokens and channels; or `kl`, the divergence
            KL(softmax(teacher) || softmax(student)) over channels, mean over kept tokens.
    """
    student, teacher = patches.float(), teacher_patches.float()
    if kind == "mse":
        distances = (student - teacher).square().mean(dim=-1)
    else:
        distances = functional.kl_div(
            student.log_softmax(dim=-1),
            teacher.log_softmax(dim=-1),
            reduction="none",
            log_target=True,
        ).sum(dim=-1)
    kept = decision.detach()
    # Weights rather than an index: the number of kept tokens would have to come to the CPU.
    return (distances * kept).sum() / kept.sum().clamp(min=1)
