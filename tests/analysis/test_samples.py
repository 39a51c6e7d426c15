from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.records import CellArtifacts, CellRecord
from analysis.samples import (
    EvaluatedCell,
    Sample,
    answers,
    rate_to_choose_at,
    sample,
    sampled_cell,
)

RECORD = CellRecord(
    cell_id="topk", dataset="digits", method="topk", family="pruning", capacity="tiny",
    keep_rate=0.5, stages=(3, 6), seed=0, state="done",
)  # fmt: skip


def record(method, rate=0.5, **facts):
    family = {"tome": "merging", "deit": "baseline", "l2": "control"}.get(method, "pruning")
    free = {"meets_every_rate": family == "baseline"}
    name = f"{method} at {rate:g}"
    facts = free | facts
    return replace(RECORD, cell_id=name, method=method, family=family, keep_rate=rate, **facts)


def evaluated(of, best, kept=None, groups=None, images=range(4)):
    """A cell on images of 2 x 2 patches whose labels are 0, 1, 2, 3."""
    images = np.array(images)
    patterns = {"image": images, "grid": np.array([2, 2]), "depth": np.array(12)}
    for block in of.stages:
        patterns |= {f"kept_{block}": np.array(kept, np.uint8)} if kept is not None else {}
        patterns |= {f"group_{block}": np.array(groups, np.uint8)} if groups is not None else {}
    predictions = pd.DataFrame({"image": images, "target": images, "class_1": best})
    return EvaluatedCell(CellArtifacts(of, patterns, {}), predictions)


def test_answers_of_one_label_are_the_likeliest_class():
    predictions = pd.DataFrame({"image": [7, 5], "target": [2, 1], "class_1": [2, 0]})
    found = answers(predictions, [5, 7])
    assert found == ([(1,), (2,)], [(0,), (2,)])
    assert found.right.tolist() == [False, True]


def test_answers_of_several_labels_are_as_many_classes_as_there_are_labels():
    predictions = pd.DataFrame(
        {
            "image": [0, 1, 2, 3],
            "target": [np.array([2, 0]), np.array([1]), np.array([], int), np.array([0, 1, 2])],
            "scores": [
                np.array(s) for s in ([0.2, 0.1, 0.3], [0.9, 0.8, 0.1], [1, 1, 1], [0, 0, 0])
            ],
        }
    )
    found = answers(predictions, range(4))
    assert found.labels == [(0, 2), (1,), (), (0, 1, 2)]
    assert found.predicted == [(0, 2), (0,), (), (0, 1, 2)]
    assert found.right.tolist() == [True, False, True, True]


def test_a_cell_is_sampled_at_its_images_whatever_their_order():
    kept = [[0], [1], [2], [3]]
    cell = evaluated(RECORD, [0, 1, 9, 3], kept=kept)
    found = sampled_cell(cell, [2, 0])
    assert found.overlays == {3: ("..+.", "+..."), 6: ("..+.", "+...")}
    assert (found.predicted, found.right) == (((9,), (0,)), (False, True))
    shuffled = evaluated(RECORD, [9, 0, 3, 1], kept=[[2], [0], [3], [1]], images=[2, 0, 3, 1])
    assert sampled_cell(shuffled, [2, 0]) == found


def test_groups_are_shown_where_a_method_has_kept_patches_as_well():
    cell = evaluated(RECORD, range(4), kept=[[0]] * 4, groups=[[5, 5, 5, 1]] * 4)
    assert sampled_cell(cell, [1]).overlays == {3: ("0001",), 6: ("0001",)}


def test_images_are_chosen_at_the_lowest_rate_at_which_most_methods_meet():
    lone = [record("topk", 0.25), record("topk", 0.5), record("tome", 0.5), record("deit", 1.0)]
    assert rate_to_choose_at(lone) == 0.5
    assert rate_to_choose_at([*lone, record("tome", 0.25), record("evit", 0.9)]) == 0.25
    assert rate_to_choose_at([*lone, record("ats", 0.9, meets_every_rate=True)]) == 0.5
    assert rate_to_choose_at([record("deit", 1.0)]) is None


def test_a_sample_holds_what_every_cell_made_of_the_images_chosen_at_one_rate(monkeypatch):
    monkeypatch.setattr("analysis.samples.IMAGES_PER_RULE", 1)
    same, other = [[0, 1]] * 4, [[0, 1], [0, 1], [0, 1], [2, 3]]
    cells = {
        cell.artifacts.record.cell_id: cell
        for cell in (
            evaluated(record("deit", 1.0), [0, 1, 2, 3]),
            evaluated(record("l2"), [0, 1, 2, 3], kept=[[2, 3]] * 3 + [[0, 1]]),
            evaluated(record("topk"), [0, 9, 2, 3], kept=same),
            evaluated(record("evit"), [0, 9, 2, 3], kept=other),
            evaluated(record("topk", 0.9), [9, 9, 9, 9], kept=[[3]] * 4),
        )
    }
    records = [cell.artifacts.record for cell in cells.values()]
    made = sample(records, 0.5, lambda r: cells[r.cell_id], {r.cell_id: "1" for r in records})
    assert [(c.image, c.rule, c.labels) for c in made.chosen] == [
        (0, "first", (0,)), (3, "disagreed", (3,)), (1, "divided", (1,))
    ]  # fmt: skip
    assert [cell.cell_id for cell in made.cells] == list(cells)
    assert made.cells[0].overlays == {}
    assert made.cells[3].overlays[6] == ("++..", "..++", "++..")
    assert made.cells[4].right == (False, False, False)
    assert (made.keep_rate, made.images, made.grid) == (0.5, 4, (2, 2))
    assert made.classes == {0, 1, 3, 9}
    assert Sample.model_validate(made.model_dump(mode="json")) == made


def test_cells_on_other_images_are_refused_by_name():
    cells = {
        "topk at 0.5": evaluated(record("topk"), range(4), kept=[[0]] * 4),
        "evit at 0.5": evaluated(record("evit"), range(3), kept=[[0]] * 3, images=range(3)),
    }
    records = [cell.artifacts.record for cell in cells.values()]
    with pytest.raises(ValueError, match="topk at 0.5, evit at 0.5 were not all evaluated on the"):
        sample(records, 0.5, lambda r: cells[r.cell_id], {})
