"""The order of methods at their own values and at one for all, from planted trials."""

import json

import pytest

from analysis.report import tuned
from analysis.report.report_context import ReportContext
from analysis.tables import table
from analysis.tuning_choices import along, main_field, orders

RATES = (1e-4, 1e-3, 1e-2)
PLANTED = {"topk": (90.0, 80.0, 50.0), "tome": (60.0, 85.0, 70.0), "sinkhorn": (40.0, 70.0, 88.0)}
"""Best at 0.0001, 0.001 and 0.01; the best mean is at 0.001, where tome is ahead."""


def trials(planted, values=RATES, **columns):
    rows = [
        {
            "cell_id": f"{method}-trial-{n}",
            "dataset": "digits",
            "capacity": "tiny",
            "method": method,
            "family": "pruning",
            "keep_rate": 0.5,
            "seed": 1000,
            "recipe": "mine",
            "values": json.dumps({"lr": values[n]}),
            "state": "done",
            "metric": "top1",
            "accuracy": accuracy,
            "loss": 1.0,
            "stopped": False,
            "chosen": accuracy == max(accuracies),
            "edge": "lr" if accuracy == max(accuracies) and n in (0, len(values) - 1) else None,
            **columns,
        }
        for method, accuracies in planted.items()
        for n, accuracy in enumerate(accuracies)
    ]
    return table("tuning", rows)


def test_one_value_for_all_is_the_best_mean_and_orders_methods_otherwise():
    found = orders(trials(PLANTED))
    assert found.own == ("topk", "sinkhorn", "tome")
    assert found.values == {"lr": 1e-3}
    assert found.shared == ("tome", "topk", "sinkhorn")
    assert not found.same
    assert tuned.order_in_words(found) == (
        "At lr 0.001, the best single choice for all methods, the order of methods on held-out "
        "images would have been another: tome, topk, sinkhorn instead of topk, sinkhorn, tome."
    )


def test_the_order_may_be_the_same():
    found = orders(trials({"topk": (1.0, 9.0, 2.0), "tome": (1.0, 5.0, 2.0)}))
    assert found.same
    assert "is the same as with values of their own: topk, tome." in tuned.order_in_words(found)


def test_equal_accuracies_are_told_apart_by_the_loss():
    rows = trials({"topk": (80.0, 1.0, 1.0), "tome": (80.0, 1.0, 1.0)})
    rows.loc[rows["method"] == "topk", "loss"] = 2.0
    assert orders(rows).own == ("tome", "topk")


@pytest.mark.parametrize(
    "planted",
    [{"topk": (80.0, 70.0, 60.0)}, {"topk": (80.0, 70.0, 60.0), "tome": (None, None, None)}],
)
def test_there_is_no_order_of_one_method_or_before_all_are_tried(planted):
    known = {method: [x or 0.0 for x in values] for method, values in planted.items()}
    rows = trials(known)
    missing = rows["accuracy"] == 0.0
    rows.loc[missing, ["accuracy", "loss"]] = float("nan")
    rows.loc[missing, "chosen"] = False
    assert orders(rows) is None


def test_a_figure_is_along_the_field_with_most_numbers_at_the_best_of_the_others():
    rows = trials({"topk": (10.0, 20.0, 30.0, 25.0)}, values=(1, 1, 2, 3))
    rows["values"] = [
        json.dumps({"drop_path": d, "lr": x}) for x, d in ((0.1, 0), (0.1, 1), (0.2, 0), (0.3, 1))
    ]
    assert main_field(rows) == "lr"
    points = along(rows, "lr")
    assert list(points["x"]) == [0.1, 0.2, 0.3]
    assert list(points["accuracy"]) == [20.0, 30.0, 25.0]


def test_the_section_marks_choices_and_edges_and_is_absent_where_nothing_is_tuned():
    context = ReportContext([], {"tuning": trials(PLANTED)}, {})
    html = tuned.tuning(context)
    assert html.count("at the edge: lr") == 2
    assert "would have been another" in html
    (figure,) = context.figures.drawables.values()
    (plot,) = figure.panels.values()
    disc, *lines = plot["data"]
    assert sorted(disc["x"]) == [-4.0, -3.0, -2.0]
    assert {line["name"]: line["y"] for line in lines} == {m: list(y) for m, y in PLANTED.items()}
    assert plot["layout"]["xaxis"]["ticktext"] == ["0.0001", "0.001", "0.01"]
    assert set(figure.draw()) == {"svg", "png"}
    assert tuned.tuning(ReportContext([], {}, {})) == ""
