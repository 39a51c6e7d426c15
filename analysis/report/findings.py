"""What a report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from analysis.records import CellRecord
from analysis.report.figures import Figures
from analysis.samples import Sample
from analysis.tables import table


@dataclass(frozen=True)
class Findings:
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
