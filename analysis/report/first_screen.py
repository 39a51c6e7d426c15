"""The report's first screen: what a budget buys, in a sentence and a table, for every setting."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import pandas as pd

from analysis.records import asked_for, budget_of
from analysis.report import markup
from analysis.report.embeddings import METRIC, SCORE_IN_WORDS
from analysis.report.groups import SETTING, Key, evaluated, images_used
from analysis.report.report_context import ReportContext

NOT_COMPARED = (
    "Nothing can be said yet: no cell with reduction has been compared. Resume the study, or "
    "compare what is evaluated: tokensweep compare STUDY."
)
AXES = ("Budgets of", *SETTING)
NAMED = 4
"""Most methods that a sentence or a field of the table names."""
COVERS = {
    "images": "Each method was trained with one seed: the intervals say what other images of the "
    "kind would change, and leave out what another training would.",
    "images and training": "The intervals cover other images of the kind and other seeds of the "
    "training.",
}
SELECTED = (
    "Each run's best epoch was picked on the images that these accuracies are of (select_on: "
    "val), as in the published study, so all of them are a little too high."
)
FEATURES_COVER = "The intervals say what other images of the kind would change."
COLUMNS = (
    *("Budget", "Cannot be told from the best", "Accuracy, %", "Against the unreduced, points"),
    *("Speed-up", "GMACs saved", "MiB"),
)


def answers(findings: ReportContext) -> str:
    """Say for each setting which methods are the best at each budget, and what they lose."""
    table = findings.table("budgets")
    rows = table[table["by"] != "keep_rate"]
    if rows.empty:
        return markup.empty(NOT_COMPARED)
    views = {key: _answer(of_setting) for key, of_setting in _settings(rows)}
    caption = (
        "A method takes part in a budget with the one of its keep rates that costs most and still "
        "meets it. All methods whose difference from the most accurate has p above 0.05 (paired on "
        "the same images, adjusted after Holm) cannot be told from the best; of several, the ends "
        "of what is between them are given. In brackets: 95 % interval. "
        f"Computed on all evaluation images: {images_used(evaluated(findings.records))}."
    )
    return markup.views(views, AXES) + _conditions(findings, rows) + markup.caption(caption)


def _settings(rows: pd.DataFrame) -> Iterator[tuple[Key, pd.DataFrame]]:
    """Yield the rows of each view, measured devices first."""
    stages = rows["stages"].map(lambda blocks: ", ".join(map(str, blocks)))
    several = stages.nunique() > 1
    on = ("speed on " + rows["device"]).fillna("GMACs")
    keyed = rows.assign(on=on, blocks="blocks " + stages if several else "")
    keyed = keyed.sort_values("by", key=lambda by: by == "gmacs", kind="stable")
    for key, of_setting in keyed.groupby(["on", "dataset", "capacity", "blocks"], sort=False):
        yield tuple(map(str, key)), of_setting


def _answer(rows: pd.DataFrame) -> str:
    lines = "".join(_line(of_budget) for _, of_budget in rows.groupby("budget"))
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in COLUMNS)
    return (
        f'<p class="finding">{escape(sentence(foremost(rows)))}</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Best methods by budget">'
        '<table class="answers"><caption>Best methods by budget</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
        f"</div>{_details(rows)}"
    )


def foremost(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the budget that is told first: a usual one, with several methods if any.

    Args:
        rows: Rows of `budgets` of one setting.
    """
    usual = 2.0 if rows["by"].iloc[0] == "speed_up" else 0.5

    def behind(of_budget: pd.DataFrame) -> tuple[bool, float]:
        return len(of_budget) == 1, abs(of_budget["budget"].iloc[0] - usual)

    return min((of_budget for _, of_budget in rows.groupby("budget")), key=behind)


def sentence(rows: pd.DataFrame) -> str:
    """Say what the rows of one budget come to.

    Args:
        rows: Rows of `budgets` with the same budget.
    """
    first = rows.iloc[0]
    best = rows[rows["in_best_set"]].sort_values("behind")
    where = f"With {budget_in_words(first)}"
    if len(rows) == 1:
        told = f"{first['method']} ({asked_for(_budget(first))}) alone gets there"
    elif len(best) == 1:
        told = f"{best['method'].iloc[0]} ({asked_for(_budget(best.iloc[0]))}) is the best"
        told += f" of {len(rows)} methods"
    elif len(best) == len(rows):
        told = f"no method can be told from the best of the {len(rows)} that get there"
    else:
        told = f"{len(best)} of {len(rows)} methods cannot be told from the best: {_listed(best)}"
    return f"{where}, {told}. {_loss(best)}"


def budget_in_words(row: Mapping[Any, Any] | pd.Series) -> str:
    """Return a budget in words: `at least 2x the speed`."""
    if row["by"] == "speed_up":
        return f"at least {row['budget']:g}x the speed on {row['device']}"
    if row["by"] == "gmacs":
        return f"at least {row['budget']:.0%} of the GMACs saved"
    return f"keep rate {row['budget']:g}"


def _loss(best: pd.DataFrame) -> str:
    known = best.dropna(subset=["difference"])
    if known.empty:
        return "The unreduced model is not evaluated yet, so what that costs is not known."
    whole = known[(known["low"] <= 0) & (known["high"] >= 0)]
    change = f"{_range(known, 'difference', '+.2f')} points (95 %: {_ends(known)})"
    if len(known) == 1:
        than = "cannot be told from" if len(whole) else "differs from"
        return f"It {than} the unreduced model: {change}."
    if len(whole) == len(known):
        return f"None of them can be told from the unreduced model: {change}."
    if whole.empty:
        return f"All of them differ from the unreduced model: {change}."
    return f"{len(whole)} of them cannot be told from the unreduced model: {change}."


def _listed(rows: pd.DataFrame) -> str:
    names = [f"{row['method']} {_budget(row)}" for row in rows.to_dict("records")]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _budget(row: Mapping[Any, Any] | pd.Series) -> str:
    return budget_of(row["keep_rate"], row["schedule"])


def _line(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    best = rows[rows["in_best_set"]].sort_values("behind")
    known = best.dropna(subset=["difference"])
    lost = f"{_range(known, 'difference', '+.2f')} [{_ends(known)}]" if len(known) else None
    memory = _range(best, "peak_memory_mb", ".0f")
    fields = [
        f"{len(best)} of {len(rows)}: {_listed(best)}",
        _range(best, "accuracy", ".2f"),
        lost or markup.MISSING,
        _range(best, "speed_up", ".2f", "x"),
        _range(best, "gmacs_saved", ".0%"),
        memory,
    ]
    cells = "".join(
        f'<td data-label="{escape(name)}">{escape(field)}</td>'
        for name, field in zip(COLUMNS[1:], fields, strict=True)
    )
    words = budget_in_words(first).split(" on ")[0]
    return f'<tr><th scope="row">{escape(words)}</th>{cells}</tr>'


def _range(rows: pd.DataFrame, column: str, form: str, unit: str = "") -> str:
    values = rows[column].dropna()
    if values.empty:
        return markup.MISSING
    ends = dict.fromkeys(f"{end:{form}}{unit}" for end in (values.min(), values.max()))
    return " to ".join(ends)


def _ends(rows: pd.DataFrame) -> str:
    return f"{rows['low'].min():+.2f} to {rows['high'].max():+.2f}"


def _details(rows: pd.DataFrame) -> str:
    """Every method at every budget, folded."""
    columns = ("Method", "Budget", "Best", "Asked for", "Accuracy", "Low", "High", "vs. unreduced",
               "Low", "High", "Behind", "p", "p (Holm)", "Speed-up", "GMACs", "MiB")  # fmt: skip
    lines = [_detail(row) for row in rows.sort_values(["budget", "behind"]).to_dict("records")]
    shown = markup.table(columns, lines, name="methods within a budget", numbers=13)
    return markup.folded("All methods at every budget", shown)


def _detail(row: Mapping[Any, Any]) -> list[str]:
    forms = {
        "accuracy": ".2f", "accuracy_low": ".2f", "accuracy_high": ".2f",
        "difference": "+.2f", "low": "+.2f", "high": "+.2f", "behind": ".2f", "p": ".3g",
        "p_holm": ".3g", "speed_up": ".2f", "gmacs": ".3g", "peak_memory_mb": ".0f",
    }  # fmt: skip
    best = "the most accurate" if row["is_best"] else "cannot be told from it"
    return [
        escape(str(row["method"])),
        escape(budget_in_words(row)),
        best if row["in_best_set"] else "worse",
        escape(_budget(row)),
        *(markup.number(row[name], form) for name, form in forms.items()),
    ]


def disturbed(speed: pd.DataFrame) -> str:
    """Say how many measurements other programs disturbed; nothing where none was.

    Args:
        speed: The table `speed`.
    """
    number = int(speed["disturbed"].sum())
    if not number:
        return ""
    return (
        f"Other programs disturbed {number} of {len(speed)} measurements of speed "
        "(tokensweep measure STUDY makes these again)."
    )


def _conditions(findings: ReportContext, rows: pd.DataFrame) -> str:
    """Say beside the numbers what they leave out."""
    said = [COVERS[covers] for covers in COVERS if (rows["covers"] == covers).any()]
    done = evaluated(findings.records)
    scored = [record for record in done if record.metrics.get("metric") != METRIC]
    if len(scored) < len(done):
        said = [SCORE_IN_WORDS, *(said if scored else [FEATURES_COVER])]
    if any(record.metrics.get("select_on") == "val" for record in scored):
        said.append(SELECTED)
    speed = findings.table("speed")
    if speed.empty:
        said.append("No speed has been measured yet (tokensweep measure STUDY).")
    elif found := disturbed(speed):
        said.append(found)
    return f'<p class="conditions">{escape(" ".join(said))}</p>' if said else ""
