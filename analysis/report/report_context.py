"""What a report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import pandas as pd

from analysis.aliases import Row
from analysis.records import CellRecord
from analysis.report.figures import Figures
from analysis.samples import Sample
from analysis.tables import table

SPEEDS = ("speed_up", "images_per_second", "latency_ms", "peak_memory_mb")
"""Columns of `speed` that cells are shown with."""


@dataclass(frozen=True)
class ReportContext:
    """What is known of a study, and the figures that its report shows of that."""

    records: Sequence[CellRecord]
    """All cells, in the order of the study."""
    tables: Mapping[str, pd.DataFrame]
    """Tables by name (`analysis.tables.SCHEMAS`)."""
    provenance: Mapping[str, str]
    """Where the numbers come from, name -> value."""
    samples: Sequence[Sample] = ()
    """Chosen images with what cells made of them."""
    figures: Figures = field(default_factory=Figures)
    """Filled by the sections."""

    def table(self, name: str) -> pd.DataFrame:
        """Return a table; one without rows if the study does not have it yet."""
        return self.tables[name] if name in self.tables else table(name, ())

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Ends of each cell's 95 % interval of the accuracy, by its id, where it has one."""
        known = self.table("results").dropna(subset=["accuracy_low"])
        own = known[known["eval_keep_rate"] == known["keep_rate"]]
        ends = zip(own["accuracy_low"], own["accuracy_high"], strict=True)
        return dict(zip(own["cell_id"], ends, strict=True))

    @cached_property
    def devices(self) -> list[str]:
        """What speed was measured on, the study's main device first."""
        speed = self.tables.get("speed")
        if speed is None or speed.empty:
            return []
        return list(speed.sort_values("main", ascending=False, kind="stable")["device"].unique())

    def measured_on(self, device: str | None) -> list[CellRecord]:
        """Return all cells, their metrics with `SPEEDS` as measured alone on a device, if any.

        What the evaluation measured beside other cells is left out.
        """
        found = self._speeds(device) if device is not None else {}
        return [
            replace(
                record,
                metrics={
                    **{name: v for name, v in record.metrics.items() if name not in SPEEDS},
                    **found.get(record.cell_id, {}),
                },
            )
            for record in self.records
        ]

    def _speeds(self, device: str) -> dict[str, Row]:
        """Return speeds by cell: at the largest batch measured, latency at a batch of one."""
        speed = self.tables["speed"]
        own = speed[(speed["device"] == device) & (speed["eval_keep_rate"] == speed["keep_rate"])]
        found: dict[str, Row] = {}
        for row in own.sort_values("batch_size").to_dict("records"):
            known = {name: row[name] for name in SPEEDS if row.get(name) == row.get(name)}
            found[row["cell_id"]] = {**found.get(row["cell_id"], {}), **known}
        return found
