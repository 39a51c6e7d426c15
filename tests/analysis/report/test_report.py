import base64
import io
import json
import pickle
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from plotly import graph_objects

from analysis.report import render
from analysis.report.charts import GREYED
from analysis.report.figures import files as draw
from analysis.report.figures import source
from analysis.report.first_screen import disturbed, foremost, sentence
from analysis.report.pixels import heat_map_uri
from analysis.report.style import KNOWN, STYLES, method_styles, ordered_methods, style_of

PROVENANCE = {"git commit": "abc <1>", "torch": "2.14.1"}


def page_of(*arguments):
    return render(*arguments).page


class _Tags(HTMLParser):
    """Records that every element is closed in order, and all text outside of scripts."""

    def __init__(self, page):
        super().__init__()
        self.open, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "img", "input", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "path":
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["script"]:
            self.text += data


@pytest.fixture(scope="module")
def page(report_records, report_tables):
    return page_of("demo & <more>", report_records, report_tables, PROVENANCE)


def _figures(page):
    found = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    return [json.loads(text) for text in found]


def test_page_is_well_formed_and_says_what_it_should(page, report_records):
    read = _Tags(page)
    assert read.open == []
    for text in ("demo & <more>", "abc <1>", "loss is <nan> at step 12 & epoch 2", "val (the repo"):
        assert text in read.text
    (cells,) = re.findall(r'<table data-name="cells">.*?</table>', page)
    assert cells.count("<tr><td>") == len(report_records)
    assert set(re.findall(r'class="state (\w+)"', cells)) == {"done", "running", "failed"}


def test_page_needs_no_network(page):
    own = page.replace(_plotly(), "")
    assert "http" not in own
    # It is not run before the first chart is drawn.
    assert page.count(f'<script type="text/plain" id="plotly">{_plotly()}</script>') == 1
    elements = re.sub(r"<script.*?</script>", "", own, flags=re.DOTALL)
    targets = re.findall(r'\b(?:src|href|action|poster|srcset)="?([^"\s>]*)', elements)
    assert len(targets) > 20
    assert all(target.startswith(("#", "data:")) for target in targets)
    assert "@import" not in own
    assert "url(" not in own


def _plotly():
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def test_plotly_accepts_every_figure(page):
    figures = _figures(page)
    assert len(figures) > 20
    for figure in figures:
        text = json.dumps(figure).replace("var(--ink)", "#000000").replace("var(--soft)", "#777777")
        graph_objects.Figure(json.loads(text))


def test_a_method_looks_the_same_in_every_figure(page, report_records):
    styles = method_styles(report_records)
    looks = {(style.colour, style.symbol) for style in styles.values()}
    assert len(looks) == len(styles) == 7
    for figure in _figures(page):
        for trace in figure["data"]:
            if trace["type"] == "scatter":
                if trace["name"] == "Pareto front" or trace.get("opacity") == GREYED:
                    continue
                style = styles[trace["meta"]]
                line = {"color": style.colour, "dash": style.dash, "width": 2}
                assert trace.get("line", line) == line
                looks = {"color": style.colour, "symbol": style.symbol}
                assert trace["marker"].items() >= looks.items()
            elif set(trace["x"]) <= set(styles):  # A matrix of methods by methods.
                order = [
                    method for method in ordered_methods(report_records) if method in trace["x"]
                ]
                assert trace["x"] == trace["y"] == order


def test_methods_are_ordered_by_family(report_records):
    expected = ["deit", "l2", "topk", "evit", "tome", "dpcknn", "sit"]
    assert ordered_methods(report_records) == expected


def test_accuracy_is_the_mean_over_seeds_with_their_deviation(report_records):
    cell = next(r for r in report_records if r.state == "done" and r.method == "topk")
    seeds = [
        replace(cell, seed=seed, metrics={**cell.metrics, "accuracy": accuracy})
        for seed, accuracy in enumerate((80.0, 90.0, 94.0))
    ]
    page = page_of("s", seeds, {}, {})
    (trace,) = _figures(page)[0]["data"]
    assert (trace["x"], trace["y"]) == ([cell.keep_rate], [88.0])
    assert trace["error_y"]["array"] == [7.2111]
    (alone,) = _figures(page_of("s", seeds[:1], {}, {}))[0]["data"]
    assert "error_y" not in alone


def test_matrices_hold_the_tables_values(page, report_tables):
    rows = report_tables["pruning"].query(
        "dataset == 'digits' and capacity_a == 'tiny' and keep_rate_a == 0.5 and keep_rate_b == 0.5"
        " and stage == 3 and method_a == 'topk' and method_b == 'l2'"
    )
    heatmaps = [f["data"][0] for f in _figures(page) if f["data"][0]["type"] == "heatmap"]
    places = [
        (h, h["y"].index("topk"), h["x"].index("l2"))
        for h in heatmaps
        if {"topk", "l2"} <= set(h["x"]) and "customdata" in h
    ]
    (row,) = rows.itertuples()
    found = [(h["customdata"][a][b], h["z"][a][b]) for h, a, b in places]
    above = max(row.iou_mean - row.iou_chance, 0) / (1 - row.iou_chance)
    assert (pytest.approx(row.iou_mean, abs=1e-4), pytest.approx(above, abs=1e-4)) in found


def _view(page, *words):
    """Figures of the one view that shows what these words of its selects say, in words."""
    (found,) = (
        view
        for view in page.split('<div class="view"')[1:]
        if json.loads(unescape(re.search(r'data-key="(.*?)"', view)[1])) == list(words)
    )
    return _figures(found.split("</figure>")[0])


def test_depth_maps_are_compared_across_datasets_and_within_one(page, report_tables):
    rows = report_tables["heatmaps"].query("comparison == 'models' and cell_b != ''")
    rows = rows.query("method_a == 'topk' and method_b == 'evit' and capacity_a == 'tiny'")
    (row,) = rows.query("dataset == 'digits' and keep_rate_a == keep_rate_b == 0.5").itertuples()
    name = "Kullback-Leibler divergence"
    (figure,) = _view(page, name, "digits", "tiny", "0.5")
    (matrix,) = figure["data"]
    a, b = (matrix["x"].index(method) for method in ("topk", "evit"))
    assert matrix["z"][a][b] == pytest.approx(row.kl_ab, rel=1e-3)
    assert matrix["z"][b][a] == pytest.approx(row.kl_ba, rel=1e-3)
    assert matrix["z"][a][a] is None
    assert "deit" not in matrix["x"]

    across = report_tables["heatmaps"].query("comparison == 'datasets' and capacity_a == 'small'")
    across = across.query("keep_rate_a == 0.5 and family_a != 'baseline'")
    drawn = [figure["data"][0] for figure in _view(page, "SIM", "small", "0.5")]
    assert len(drawn) == len(across) > 1
    for matrix in drawn:
        assert matrix["x"] == ["digits", "digits_multi"]
        assert matrix["z"][0][1] == matrix["z"][1][0]
    values = sorted(matrix["z"][0][1] for matrix in drawn)
    assert values == pytest.approx(sorted(across["sim"]), rel=1e-3)


def test_every_figure_says_on_how_many_images_it_was_computed(page):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.DOTALL)
    assert len(captions) == page.count("<figure>") > 12
    assert [caption for caption in captions if "images: 48" not in caption] == []


def test_long_tables_have_filters_and_all_can_be_reached_by_keyboard(page, report_records):
    tables = re.findall(r'<div class="table">(.*?)</table>', page, re.DOTALL)
    assert len(tables) > 3
    for table in tables:
        assert 'tabindex="0" role="region" aria-label=' in table
        assert "<caption>" in table
        assert table.count("<th ") == table.count('<th scope="col"') > 2
        assert ('<input type="search">' in table) is (table.count("<tr><td>") >= 12)
    (cells,) = (table for table in tables if 'data-name="cells"' in table)
    columns = [re.sub("<.*?>", "", head) for head in re.findall(r"<th.*?</th>", cells)]
    chosen = [columns[int(n)] for n in re.findall(r'data-column="(\d+)"', cells)]
    assert chosen == ["Dataset", "Capacity", "Method", "State"]


def test_ranks_are_drawn_best_first_with_the_critical_difference(report_records, report_tables):
    ranked = report_tables["ranks"].dropna(subset=["average_rank"])
    page = page_of("s", report_records, {"ranks": ranked.assign(critical_difference=1.5)}, {})
    rows = ranked[ranked["dataset"] == "digits"].sort_values("average_rank")
    diagrams = [f for f in _figures(page) if f["layout"]["xaxis"].get("title") == RANK_AXIS]
    assert len(diagrams) == ranked["dataset"].nunique(dropna=False)
    drawn = [[trace["meta"] for trace in figure["data"]] for figure in diagrams]
    figure = diagrams[drawn.index(list(rows["method"]))]
    assert [trace["x"][0] for trace in figure["data"]] == rows["average_rank"].round(4).tolist()
    (band,) = figure["layout"]["shapes"]
    assert (band["x0"], band["x1"]) == (
        rows["average_rank"].min(),
        rows["average_rank"].min() + 1.5,
    )


RANK_AXIS = {"text": "average rank"}


def test_correlations_show_the_tables_values_and_mark_what_is_significant(page, report_tables):
    maps = [f["data"][0] for f in _figures(page) if f["data"][0].get("zmin") == -1]
    drawn = {
        (group, measure, value, bool(star))
        for m in maps
        for group, values, stars in zip(m["y"], m["z"], m["text"], strict=True)
        for measure, value, star in zip(m["x"], values, stars, strict=True)
        if value is not None
    }
    known = report_tables["correlations"].dropna(subset=["spearman", "method"])
    known = known[known["outcome"] == "A - B"]
    expected = {
        (row.method, round(row.spearman, 4), row.spearman_q <= 0.05) for row in known.itertuples()
    }
    assert {(group, value, star) for group, _, value, star in drawn} == expected
    assert len(expected) > 50
    assert any(measure == "CKA distance @ 11" for _, measure, _, _ in drawn)


def test_study_without_results_still_has_a_page(report_records):
    waiting = [replace(r, state="pending", metrics={}, progress={}) for r in report_records]
    read = _Tags(page_of("s", waiting, {}, {}))
    assert "No cell has been evaluated yet." in read.text
    assert "No two cells have been compared yet." in read.text
    assert "No block of cells is finished for several methods yet." in read.text
    assert "No group of at least 3 compared pairs yet." in read.text
    assert _Tags(page_of("s", [], {}, {})).open == []
    undefined = [replace(r, state="done", metrics={"accuracy": float("nan")}) for r in waiting]
    assert "No cell has been evaluated yet." in _Tags(page_of("s", undefined, {}, {})).text


def test_a_cell_shows_how_gently_it_was_trained_and_how_long_it_waited(report_records):
    record = next(r for r in report_records if r.state == "done")
    facts = {"not_finite": 1, "gentler": "clip_grad 1", "data_wait": 0.374}
    text = _Tags(page_of("s", [replace(record, progress=record.progress | facts)], {}, {})).text
    assert "trained more gently after 1 attempt that was not finite: clip_grad 1" in text
    assert "37%" in text
    assert "more gently" not in _Tags(page_of("s", [record], {}, {})).text


def test_names_are_text_wherever_they_appear(report_records, report_tables):
    evil = '</script><b>"x'
    records = [replace(r, method=evil) if r.method == "topk" else r for r in report_records]
    tables = {name: rows.replace("topk", evil) for name, rows in report_tables.items()}
    page = page_of("s", records, tables, {evil: evil})
    assert _Tags(page).open == []
    assert evil not in page
    assert "<b>&quot;x" not in page


def test_heat_map_is_a_picture_a_pixel_a_cell():
    uri = heat_map_uri(np.array([[0.0, 5.0, 10.0]]), 0, 10)
    image = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    pixels = np.asarray(image)
    assert pixels.shape == (1, 3, 3)
    assert pixels[0, 0].tolist() == [0, 34, 78]
    assert pixels[0, 2].tolist() == [254, 232, 56]


def test_every_figure_is_a_picture_in_both_formats(report_records, report_tables):
    few = [r for r in report_records if (r.dataset, r.capacity) == ("digits", "tiny")]
    drawn = render("s", few, report_tables, {}).figures.drawables
    drawn = pickle.loads(pickle.dumps(drawn))  # Other processes can draw them, too.
    names = set(drawn)
    files = {file: content for named in drawn.items() for file, content in draw(named).items()}
    assert set(files) == {f"{name}.{form}" for name in names for form in ("svg", "png")}
    expected = {
        "accuracy-by-keep-rate", "accuracy-by-gmacs-per-image", "accuracy-by-speed-up-on-fast-gpu",
        "accuracy-by-latency-of-one-image-ms-on-small-cpu", "depth-maps-by-method-digits-tiny-0.5",
        "depth-maps-by-keep_rate-digits-tiny",
        "ranks", "token-depth-digits-tiny", "iou_mean-digits-tiny-0.5",
        "cka-by-block-digits-tiny-0.25",
    }  # fmt: skip
    assert names >= expected
    for name, content in files.items():
        if name.endswith(".svg"):
            assert ElementTree.fromstring(content).tag.endswith("svg")
        else:
            assert np.asarray(Image.open(io.BytesIO(content)).convert("L")).std() > 5, name
    text = files["accuracy-by-keep-rate.svg"].decode()
    for words in ("keep rate", "top-1 accuracy (%)", "dpcknn", "digits · tiny"):
        assert words in text


def test_the_front_joins_the_cells_that_no_other_beats(page, report_records):
    (front,) = [
        trace
        for figure in _figures(page)
        if figure["layout"]["xaxis"].get("title") == {"text": "speed-up"}
        for trace in figure["data"]
        if trace.get("name") == "Pareto front" and max(trace["y"]) > 95
    ][:1]
    cells = [
        (r.metrics["images_per_second"] / 4000, r.metrics["accuracy"])
        for r in report_records
        if r.dataset == "digits" and r.state == "done"
    ]
    beaten = [any(a >= x and b >= y and (a, b) != (x, y) for a, b in cells) for x, y in cells]
    expected = sorted(cell for cell, is_beaten in zip(cells, beaten, strict=True) if not is_beaten)
    assert sorted(zip(front["x"], front["y"], strict=True)) == expected


def test_distances_from_the_baseline_are_those_of_the_table(page, report_tables):
    plots = [
        figure
        for figure in _figures(page)
        if figure["layout"].get("yaxis", {}).get("title") == {"text": "linear CKA distance"}
    ]
    drawn = {
        (trace["meta"], block, value)
        for figure in plots
        for trace in figure["data"]
        for block, value in zip(trace["x"], trace["y"], strict=True)
    }
    rows = report_tables["features"].query("method_b == 'deit'")
    assert drawn == {(row.method_a, row.block, round(row.cka, 4)) for row in rows.itertuples()}
    assert len(drawn) > 20


def test_the_same_figure_is_the_same_file(report_records, report_tables):
    once, again = (
        next(iter(render("s", report_records, report_tables, {}).figures.drawables.items()))
        for _ in range(2)
    )
    assert source(once[1]) == source(again[1])
    assert draw(once) == draw(again)


def test_another_figure_is_drawn_from_another_source(report_records, report_tables):
    fewer = {name: frame for name, frame in report_tables.items() if name != "ranks"}
    all_of_it, part = (
        render("s", records, tables, {}).figures.drawables
        for records, tables in ((report_records, report_tables), (report_records[1:], fewer))
    )
    accuracy, depth = "accuracy-by-keep-rate", "token-depth-digits-small"
    assert source(all_of_it[accuracy]) != source(part[accuracy])
    assert source(all_of_it[depth]) == source(part[depth])


def test_the_first_screen_says_what_the_table_of_budgets_holds(page, report_tables):
    summary = _Tags(page.split('<section id="summary">')[1].split("</section>")[0]).text
    budgets = report_tables["budgets"]
    for (by, device), rows in budgets.groupby(["by", "device"], dropna=False):
        if by == "keep_rate":
            continue
        for _, setting in rows.groupby(["dataset", "capacity"]):
            for _, of_budget in setting.groupby("budget"):
                best = of_budget[of_budget["in_best_set"]]
                assert f"{len(best)} of {len(of_budget)}: " in summary
                known = best["difference"].dropna()
                if len(known):
                    assert f"{known.min():+.2f}" in summary
        assert f"speed on {device}" in page if by == "speed_up" else "GMACs saved" in summary
    assert "select_on: val" in summary
    assert "one seed" in summary


def test_sentences_claim_no_more_than_the_numbers(report_tables):
    rows = report_tables["budgets"]
    first = rows[rows["by"] == "gmacs"].iloc[:1].assign(budget=0.5, low=-1.0, high=0.5)
    several = pd.concat([first.assign(method=name, p_holm=0.3) for name in ("a", "b", "c")])
    told = sentence(several.assign(in_best_set=True, difference=-0.3))
    assert told.startswith("With at least 50% of the GMACs saved, no method can be told from the")
    assert "None of them can be told from the unreduced model: -0.30 points" in told
    told = sentence(several.assign(in_best_set=[True, True, False], low=-2.0, high=[-1, 1, 1]))
    assert "2 of 3 methods cannot be told from the best: a " in told
    assert "1 of them cannot be told from the unreduced model" in told
    told = sentence(several.assign(in_best_set=[True, False, False], high=-0.1))
    assert "a (keep rate" in told
    assert "is the best of 3 methods" in told
    assert "It differs from the unreduced model" in told
    assert "alone gets there" in sentence(several.iloc[:1].assign(in_best_set=True))
    unknown = sentence(several.assign(in_best_set=True, difference=np.nan))
    assert "not evaluated yet" in unknown


@pytest.mark.parametrize(("met", "told"), [((3, 2, 1), 2.0), ((3, 1, 1), 1.5), ((1, 1, 1), 2.0)])
def test_the_budget_told_first_is_one_that_several_methods_meet(report_tables, met, told):
    row = report_tables["budgets"].iloc[:1].assign(by="speed_up")
    budgets = zip((1.5, 2.0, 3.0), met, strict=True)
    rows = pd.concat([row.assign(budget=budget) for budget, times in budgets for _ in range(times)])
    assert foremost(rows)["budget"].unique().tolist() == [told]


def test_measurements_that_were_disturbed_are_said(report_records, report_tables):
    speed = report_tables["speed"].assign(disturbed=False)
    assert disturbed(speed) == ""
    speed["disturbed"] = [True, True, *[False] * (len(speed) - 2)]
    told = f"Other programs disturbed 2 of {len(speed)} measurements of speed"
    page = page_of("s", report_records, report_tables | {"speed": speed}, {})
    assert told in _Tags(page).text
    assert told in disturbed(speed)


def test_no_speed_is_only_said_to_be_measured_where_none_was(report_records, report_tables):
    """Not where speed was measured and no method reaches a budget by it."""
    claim = "No speed has been measured yet"
    budgets = report_tables["budgets"]
    by_work = report_tables | {"budgets": budgets[budgets["device"].isna()]}
    assert len(by_work["budgets"])
    assert claim not in _Tags(page_of("s", report_records, by_work, {})).text
    del by_work["speed"]
    assert claim in _Tags(page_of("s", report_records, by_work, {})).text


def test_speed_beside_other_cells_is_not_on_the_page(report_records, report_tables):
    unmeasured = {name: t for name, t in report_tables.items() if name not in ("speed", "budgets")}
    assert "Not measured yet" in _Tags(page_of("s", report_records, unmeasured, {})).text
    speeds = {f"{r.metrics['images_per_second']:.0f}" for r in report_records if r.metrics}
    page = page_of("s", report_records, unmeasured, {})
    (cells,) = re.findall(r'<table data-name="cells">.*?</table>', page)
    assert not any(f">{speed}<" in cells for speed in speeds)


def test_a_method_looks_the_same_in_all_studies(report_records):
    alone = [r for r in report_records if r.method in ("tome", "deit")]
    for method, style in method_styles(alone).items():
        assert method_styles(report_records)[method] == style
    assert len({style_of(method) for method in KNOWN}) == len(KNOWN)
    others = {style_of(f"method{number}") for number in range(500)}
    assert others.isdisjoint({style_of(method) for method in KNOWN})
    assert len(others) == STYLES - len(KNOWN)
    assert style_of("atc linkage=single") == style_of("atc linkage=single") != style_of("atc")


def test_charts_say_what_they_show(page):
    labels = re.findall(r'class="chart" style="[^"]*" role="img" aria-label="([^"]*)"', page)
    assert len(labels) == page.count('class="chart"')
    assert any(label.startswith("pruning: deit 97") for label in labels)
    assert any("from 0" in label and " and " in label for label in labels)


def test_headings_are_in_order(page):
    levels = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
