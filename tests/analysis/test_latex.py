r"""LaTeX that a paper can take in: escaped, the best in bold, dashes for what is missing."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.latex import accuracy_tables, as_latex, escape, latex_files
from analysis.records import CellRecord
from analysis.seeds import seeds_table
from analysis.tables import SCHEMAS, results_table, table

CELL = CellRecord(
    cell_id="", dataset="nabirds", method="topk", family="pruning", capacity="small",
    keep_rate=0.5, stages=(3, 6), seed=0, state="done",
)  # fmt: skip


def cell(method, rate, accuracy, seed=0, **others):
    series = f"{method}-{rate}-{others.get('imported')}-0a1b2c3d"
    metrics = {"metric": "top1", "accuracy": accuracy} if accuracy is not None else {}
    record = replace(CELL, method=method, keep_rate=rate, seed=seed, metrics=metrics)
    return replace(record, cell_id=f"{series}-s{seed}", **{"series": series} | others)


def made(*records):
    return accuracy_tables(seeds_table(results_table(records)), "my_study")


def rows(text):
    """The lines between the head and the last rule, as cells."""
    body = text.split(r"\midrule", 1)[1].split(r"\bottomrule")[0].splitlines()
    lines = [line.removesuffix(r" \\") for line in body if line.endswith(r" \\")]
    return {line.split(" & ")[0]: line.split(" & ")[1:] for line in lines}


def body(text):
    """The lines of a longtable below its head and foot."""
    return text.split("\\endlastfoot\n")[1].split(r"\end{longtable}")[0].splitlines()


def test_methods_by_keep_rates_with_the_best_in_bold():
    found = made(
        cell("deit", 1.0, 80.0, family="baseline"),
        cell("topk", 0.5, 70.126), cell("topk", 0.7, 75.0),
        cell("tome", 0.5, 70.129), cell("tome", 0.7, 74.0),
        cell("evit", 0.7, None),
    )  # fmt: skip
    assert list(found) == ["accuracy-nabirds-small"]
    text = found["accuracy-nabirds-small"]
    assert rows(text) == {
        "deit": [r"\multicolumn{2}{c}{80.00}"],
        "topk": [r"\textbf{70.13}", r"\textbf{75.00}"],
        "tome": [r"\textbf{70.13}", "74.00"],
    }
    assert r"Method & 0.5 & 0.7 \\" in text
    assert r"\caption{Top-1 accuracy (\%) on nabirds, small, by keep rate." in text
    assert r"\label{tab:my-study-nabirds-small}" in text


def test_a_cell_that_is_not_known_is_a_dash():
    text = made(cell("topk", 0.5, 70.0), cell("tome", 0.7, 71.0))["accuracy-nabirds-small"]
    assert rows(text) == {"topk": [r"\textbf{70.00}", "--"], "tome": ["--", r"\textbf{71.00}"]}


def test_several_seeds_are_mean_and_sample_deviation():
    text = made(*(cell("topk", 0.5, 70.0 + seed, seed) for seed in range(3)))
    (shown,) = rows(text["accuracy-nabirds-small"])["topk"]
    assert shown == r"\textbf{71.00 $\pm$ 1.00}"
    assert r"sample standard deviation over 3 seeds" in text["accuracy-nabirds-small"]


def test_what_only_its_recipe_or_origin_tells_apart_has_rows_of_its_own():
    text = made(
        cell("kmedoids", 0.5, 70.0),
        cell("kmedoids equal_weight=true", 0.5, 69.0, options='{"equal_weight": true}'),
        cell("kmedoids", 0.5, 68.0, imported="me/p/run"),
        cell("kmedoids", 0.5, 67.0, series="other-recipe-deadbeef"),
    )["accuracy-nabirds-small"]
    assert rows(text) == {
        "kmedoids": [r"\textbf{70.00}"],
        r"kmedoids equal\_weight=true": ["69.00"],
        "kmedoids, imported": ["68.00"],
        "kmedoids (deadbeef)": ["67.00"],
    }


def test_every_dataset_and_capacity_has_its_table():
    found = made(
        cell("topk", 0.5, 70.0),
        cell("topk", 0.5, 60.0, capacity="tiny", series="t"),
        cell("topk", 0.5, 50.0, dataset="coco", series="c"),
    )
    assert list(found) == [f"accuracy-{name}" for name in ("nabirds-small", "nabirds-tiny",
                                                           "coco-small")]  # fmt: skip


def test_any_value_of_any_table_is_printable():
    frame = pd.DataFrame(
        {
            "a_name": ["50% & more_#1 {x} ~^\\ <[|]>", None],
            "number": [0.000012345, np.nan],
            "big": [np.inf, -1.5],
            "count": pd.array([3, None], dtype="Int64"),
            "list": [[3, 6], []],
            "flag": [True, False],
        }
    )
    text = as_latex(frame)
    assert r"\begin{longtable}{lrrrlr}" in text
    assert r"a\_name & number & big & count & list & flag \\" in text
    first, second = (line.removesuffix(r" \\").split(" & ") for line in body(text))
    assert first[0] == (
        r"50\% \& more\_\#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} "
        r"\textless{}{[}\textbar{}]\textgreater{}"
    )
    assert first[1:] == [r"$1.234 \times 10^{-5}$", r"$\infty$", "$3$", "$3$, $6$", "yes"]
    assert second == ["--", "--", "$-1.5$", "--", "--", "no"]


def test_a_table_without_rows_is_whole():
    text = as_latex(pd.DataFrame({"a": [], "b": []}))
    assert body(text) == []
    assert r"\multicolumn{2}{r}{Continued on next page} \\" in text


def test_lines_of_a_text_become_one():
    assert escape("why\n  it failed") == "why it failed"


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_table_has_as_many_cells_a_line_as_columns_and_dashes_for_what_is_missing(name):
    values = {"string": "a_b", "object": [1], "bool": True}
    full = {column: values.get(kind, 1) for column, kind in SCHEMAS[name].items()}
    needed = [column for column, kind in SCHEMAS[name].items() if kind in ("int64", "bool")]
    sparse = {column: full[column] for column in needed}
    text = latex_files({name: table(name, [full, sparse])}, "study")[name]
    lines = body(text)
    assert [line.count(" & ") for line in lines] == [len(SCHEMAS[name]) - 1] * 2
    assert lines[0].count("--") == 0
    assert lines[1].count("--") == len(SCHEMAS[name]) - len(needed)
    assert not re.search(r"(?i)nan|<NA>", text)
