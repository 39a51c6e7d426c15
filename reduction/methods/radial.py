"""Fixed radial patterns, the control: keep what is close to the image's centre."""

from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from reduction.plan import Keep, Plan
from reduction.schedule import Schedule
from reduction.stage import Stage, StageSpec
from reduction.tokens import Tokens

SCHEDULES = ("matched", "linear")


class Radial(Stage):
    """Keeps the patches within a distance of the centre, the same ones for every image.

    Equal distances that float32 rounds apart count as different, as in the published study.
    """

    family = "control"
    citation = "Haurum et al., Which Tokens to Use?, ICCV Workshops 2023"
    patterns = ("kept",)
    needs_grid = True
    order: ClassVar[float]
    """Order of the norm that measures distances."""

    def __init__(
        self, spec: StageSpec, *, schedule: str = "matched", min_radius: float = 1.0
    ) -> None:
        """Set up the stage.

        Args:
            spec: Where the stage sits.
            schedule: `matched` keeps, at each block of `reduction_loc`, as close to the target
                count as rings allow; `linear` shrinks the radius evenly at every block from the
                first to the last of them, whatever the keep rate.
            min_radius: Where the linear schedule would end one block later, in patches.
        """
        super().__init__(spec)
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule is {schedule!r}, but must be one of {', '.join(SCHEDULES)}")
        self.min_radius = min_radius
        self.matched = self.has_fixed_budget(schedule=schedule)
        self.kept: Tensor
        self.register_buffer("kept", self._kept(spec.grid), persistent=False)
        if not len(self.kept):
            raise ValueError(f"min_radius is {min_radius:g}, but must leave at least 1 token")

    @classmethod
    def has_fixed_budget(cls, **options: Any) -> bool:
        """Return whether the keep rate counts, which the linear schedule does not look at."""
        return options.get("schedule") != "linear"

    @classmethod
    def schedule(cls, asked: Schedule, depth: int, **options: Any) -> Schedule:
        """Return the blocks that reduce; the linear schedule leaves the fractions unused."""
        if cls.has_fixed_budget(**options):
            return asked
        blocks = tuple(range(asked.blocks[0], asked.blocks[-1] + 1))
        return Schedule(blocks=blocks, fractions=(Fraction(1),) * len(blocks))

    def before_block(self, tokens: Tokens) -> Plan:
        """Drop the patches beyond the stage's radius."""
        index = self._index(tokens.grid).to(tokens.x.device)
        return Keep(index=index.expand(tokens.x.shape[0], -1))

    def acts(self, tokens: Tokens) -> bool:
        """Return whether any patch is beyond the stage's radius."""
        return len(self._index(tokens.grid)) < tokens.count

    def respecify(self, spec: StageSpec) -> None:
        """Take another place, and choose the patches anew."""
        super().respecify(spec)
        self.kept = self._kept(spec.grid).to(self.kept.device)

    def _index(self, grid: tuple[int, int]) -> Tensor:
        return self.kept if grid == self.spec.grid else self._kept(grid)

    def count(self, incoming: int) -> int:
        """Return the patches within the radius."""
        return len(self.kept)

    def _kept(self, grid: tuple[int, int]) -> Tensor:
        """Positions [K], among the patches the stage before left, of those that stay."""
        distance = centre_distances(grid, self.order)
        radii = self._radii(distance)
        if self.spec.index > 0:
            distance = distance[distance <= radii[self.spec.index - 1]]
        return (distance <= radii[self.spec.index]).nonzero()[:, 0]

    def _radii(self, distance: Tensor) -> Tensor:
        """Radius of every stage of the model, [stages] float32."""
        schedule = self.spec.schedule
        if not self.matched:
            corner = distance.max().item()
            steps = len(schedule.blocks) + 2
            return torch.linspace(corner, self.min_radius, steps, device="cpu")[1:-1]
        targets = torch.tensor(schedule.targets(len(distance)), device="cpu")
        rings = distance.unique()
        counts = (distance <= rings[:, None]).sum(dim=1)
        return rings[(counts - targets[:, None]).abs().argmin(dim=1)]


def centre_distances(grid: tuple[int, int], order: float) -> Tensor:
    """Return the distance [rows * columns] float32 of each patch from the centre of the grid.

    Coordinates are `linspace(-g / 2, g / 2, g)` along a side of g patches. On the CPU, whatever
    the default device, for the sake of models that are built on `meta`.
    """
    rows, columns = (torch.linspace(-side / 2, side / 2, side, device="cpu") for side in grid)
    coordinates = torch.cartesian_prod(rows, columns)
    return torch.linalg.vector_norm(coordinates, ord=order, dim=1)


class L1(Radial):
    """Diamonds."""

    order = 1


class L2(Radial):
    """Discs."""

    order = 2


class LInf(Radial):
    """Squares."""

    order = torch.inf
