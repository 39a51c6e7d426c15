"""Tables of earlier versions, which lack columns of today."""

import pandas as pd

from analysis.tables import SCHEMAS

NEVER_MISSING = ("int64", "bool")
"""Types of columns that have a value in every row."""


def completed(name: str, frame: pd.DataFrame) -> pd.DataFrame | None:
    """Return the table `name` of an earlier version with all columns of today.

    Returns:
        None where a column is missing that has a value in every row.
    """
    missing = [column for column in SCHEMAS[name] if column not in frame]
    if not missing:
        return frame
    if len(frame) and any(SCHEMAS[name][column] in NEVER_MISSING for column in missing):
        return None
    added = {column: pd.Series(dtype=SCHEMAS[name][column]) for column in missing}
    whole = frame.assign(**{c: values.reindex(frame.index) for c, values in added.items()})
    return whole[list(SCHEMAS[name])]
