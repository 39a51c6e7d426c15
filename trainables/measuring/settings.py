"""What a study says about measuring speed."""

from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trainables.measuring.configuration import Precision

LEAST_ROUNDS = 7
"""As in `reduction.timing`, which imports torch."""


class Effort(NamedTuple):
    """How long a measurement goes on, see `reduction.speed`."""

    rounds: int
    seconds: float


class MeasureSettings(BaseModel):
    """How the speed of a study's models is measured."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )

    batch_sizes: list[Annotated[int, Field(ge=1)]] = [1, 32, 128]
    """Images a pass, each size once. Size 1 gives the latencies; speed-up, throughput and memory in
    `results` are those of the largest."""
    precision: Precision = "auto"
    """Type of weights and images: `auto` is bf16 where the GPU has it, else fp16, and `off`,
    float32, on a CPU."""
    compile: bool = False
    """Run host and model through `torch.compile`; `ats` is run without."""
    rounds: Annotated[int, Field(ge=LEAST_ROUNDS)] = 15
    """How often host and model take turns, at least 7, and up to four times as often while the
    speed-up is uncertain by more than 1 %."""
    seconds: Annotated[float, Field(gt=0)] = 30.0
    """Rounds after the seventh are left out where a batch size has taken so long, above 0."""

    @property
    def effort(self) -> "Effort":
        """How long a measurement at one batch size goes on."""
        return Effort(self.rounds, self.seconds)

    @field_validator("batch_sizes")
    @classmethod
    def _each_once(cls, sizes: list[int]) -> list[int]:
        if not sizes or len(set(sizes)) < len(sizes):
            raise ValueError("must have at least one batch size, and each once")
        return sorted(sizes)
