"""Tables as LaTeX, with the packages booktabs and longtable."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from analysis.aliases import Row

BASELINE = "baseline"
MISSING = "--"
METRICS = {
    "top1": r"Top-1 accuracy (\%)",
    "map": r"Mean average precision (\%)",
    "cosine": r"Cosine to the unreduced host $\times$ 100",
}
SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
}
"""Characters that LaTeX would not print as they are; `[` after a line's end is an argument."""
PACKAGES = r"% Needs \usepackage{booktabs,longtable}."


def escape(text: str) -> str:
    """Return LaTeX that prints `text`, in one line."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))


def as_latex(frame: pd.DataFrame) -> str:
    """Return any table as a longtable, its columns as they are; missing values are dashes.

    Numbers have four significant digits.
    """
    numeric = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame.columns]
    styler = (
        frame.style.format(_value)
        .format_index(lambda name: escape(str(name)), axis="columns")
        .hide(axis="index")
    )
    alignment = "".join("r" if is_number else "l" for is_number in numeric)
    text = styler.to_latex(environment="longtable", hrules=True, column_format=alignment)
    # pandas counts a row's cells for the foot, and finds none in a table without rows.
    text = text.replace(r"\multicolumn{0}", rf"\multicolumn{{{len(frame.columns)}}}")
    return f"{PACKAGES}\n{text}"


def accuracy_tables(seeds: pd.DataFrame, study: str) -> dict[str, str]:
    """Return a table of accuracies, methods by keep rates, for each dataset and capacity.

    The best methods of a keep rate, as far as the digits shown tell, are bold; the unreduced
    baseline stands above and does not compete.

    Args:
        seeds: The study's `seeds`.
        study: Its name, which the labels begin with.

    Returns:
        `accuracy-DATASET-CAPACITY` -> a LaTeX `table`, for those with anything to show.
    """
    own = seeds[(seeds["eval_keep_rate"] == seeds["keep_rate"]) & seeds["accuracy_mean"].notna()]
    return {
        f"accuracy-{dataset}-{capacity}": _accuracy_table(rows, study, str(dataset), str(capacity))
        for (dataset, capacity), rows in own.groupby(["dataset", "capacity"], sort=False)
    }


def _accuracy_table(rows: pd.DataFrame, study: str, dataset: str, capacity: str) -> str:
    metric = METRICS.get(str(rows["metric"].iloc[0]), "Accuracy")
    labelled = rows.assign(label=_labels(rows))
    is_baseline = labelled["family"] == BASELINE
    reduced, baselines = labelled[~is_baseline], labelled[is_baseline]
    rates = sorted(set(reduced["keep_rate"])) or [1.0]
    span = len(rates)
    caption = (
        f"{metric} on {escape(dataset)}, {escape(capacity)}, by keep rate. The best of each keep "
        rf"rate is bold. {_spread(rows)}A dash stands for what is not known."
    )
    unreduced = [
        rf"{row['label']} & \multicolumn{{{span}}}{{c}}{{{_accuracy(row)}}} \\"
        for row in _dicts(baselines)
    ]
    return _joined(
        PACKAGES,
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{_plain(study)}-{_plain(dataset)}-{_plain(capacity)}}}",
        rf"\begin{{tabular}}{{l{'r' * span}}}",
        r"\toprule",
        rf" & \multicolumn{{{span}}}{{c}}{{Keep rate}} \\",
        rf"\cmidrule(lr){{2-{span + 1}}}",
        _line(["Method", *(escape(name) for name in _rate_names(reduced, rates))]),
        r"\midrule",
        *unreduced,
        *([r"\midrule"] if unreduced and len(reduced) else []),
        *_method_lines(reduced, rates),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    )


def _rate_names(reduced: pd.DataFrame, rates: Sequence[float]) -> list[str]:
    """Return each rate, or what the cells at it were asked for instead, such as `r=8`."""
    schedules = reduced.dropna(subset=["schedule"]).groupby("keep_rate")["schedule"].first()
    return [str(schedules.get(rate, f"{rate:g}")) for rate in rates]


def _method_lines(reduced: pd.DataFrame, rates: Sequence[float]) -> list[str]:
    shown_means = reduced["accuracy_mean"].map("{:.2f}".format).astype("float64")
    best = shown_means.groupby(reduced["keep_rate"]).max()
    cells: dict[str, dict[float, str]] = {}
    for row, mean in zip(_dicts(reduced), shown_means, strict=True):
        shown = _accuracy(row)
        if mean == best[row["keep_rate"]]:
            shown = rf"\textbf{{{shown}}}"
        cells.setdefault(row["label"], {})[row["keep_rate"]] = shown
    return [
        _line([label, *(by_rate.get(rate, MISSING) for rate in rates)])
        for label, by_rate in cells.items()
    ]


def _labels(rows: pd.DataFrame) -> list[str]:
    """Return what each row is called; rows that share method and rate are told apart."""
    named = pd.Series([escape(_label(row)) for row in _dicts(rows)])
    number = named.groupby([named, rows["keep_rate"].to_numpy()]).cumcount()
    series = rows["series"].str.rpartition("-")[2]
    return [
        f"{name} ({escape(of)})" if count else name
        for name, count, of in zip(named, number, series, strict=True)
    ]


def _label(row: Row) -> str:
    return f"{row['method']}, imported" if row["imported"] else str(row["method"])


def _accuracy(row: Row) -> str:
    mean, std = row["accuracy_mean"], row["accuracy_std"]
    return f"{mean:.2f}" if pd.isna(std) else rf"{mean:.2f} $\pm$ {std:.2f}"


def _dicts(rows: pd.DataFrame) -> list[Row]:
    return cast("list[Row]", rows.to_dict("records"))


def _spread(rows: pd.DataFrame) -> str:
    counts = sorted({count for count in rows["n"] if count > 1})
    if not counts:
        return ""
    several = "--".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    return rf"Mean $\pm$ sample standard deviation over {several} seeds, where there are several. "


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple, np.ndarray)):
        return ", ".join(map(_value, value)) or MISSING
    if pd.isna(value):
        return MISSING
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return _number(float(value))
    return f"${value}$" if isinstance(value, (int, np.integer)) else escape(str(value))


def _number(value: float) -> str:
    if math.isinf(value):
        return r"$\infty$" if value > 0 else r"$-\infty$"
    digits, _, exponent = f"{value:.4g}".partition("e")
    return rf"${digits} \times 10^{{{int(exponent)}}}$" if exponent else f"${digits}$"


def _line(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _plain(name: str) -> str:
    """Return a name as a label can hold it."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name)


def _joined(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def latex_files(tables: Mapping[str, pd.DataFrame], study: str) -> dict[str, str]:
    """Return every table, and the tables of accuracies, by the name of their file."""
    made = {name: as_latex(frame) for name, frame in tables.items()}
    return made | (accuracy_tables(tables["seeds"], study) if "seeds" in tables else {})
