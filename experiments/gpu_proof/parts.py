"""The listing of all parts, ordered by what they are worth where time is short."""

from dataclasses import dataclass

PACKAGE = "experiments.gpu_proof"


@dataclass(frozen=True)
class Part:
    """A module with a function `prove`, run in a process of its own."""

    name: str
    proves: str
    seconds: float
    """It is ended after so long; what it has found by then stays."""
    module: str
    job: str = ""
    """What of it: modules with several jobs are several parts."""


PARTS = (
    Part("reference", "arrays of all methods, float32", 90, "reference_arrays"),
    Part("decisions", "decisions in bfloat16 and float16", 90, "low_precision"),
    Part("clustering", "ATC's kernel against plain code", 60, "clustering"),
    Part("tests", "tests that need the device, without compiling", 120, "device_tests", "plain"),
    Part("finetuning", "training as on a CPU; resuming", 90, "finetuning", "plain"),
    Part("erasing", "pixels erased on the device", 30, "device_erasing"),
    Part("eager", "speed of all methods", 120, "model_speed", "eager"),
    Part("graph", "speed as a CUDA graph", 120, "model_speed", "graph"),
    Part("study", "four cells at `gpu: auto`, killed and resumed", 300, "smoke_study"),
    Part("sharing", "1, 2 and 4 cells at once", 300, "sharing_cells"),
    Part("training", "training loop beside timm's own", 120, "timm_loop"),
    Part("compiled finetuning", "the same, compiled", 300, "finetuning", "compiled"),
    Part("compiled tests", "every method as one compiled graph", 600, "device_tests", "compiled"),
    Part("compiled", "speed compiled, and how long that takes", 900, "model_speed", "compiled"),
)
