"""A cell, and the files of a finished one, made without training."""

import numpy as np
import pandas as pd

from trainables.cell.cell import Cell
from trainables.recipe import Recipe

CELL = Cell(
    dataset="digits",
    method="topk",
    capacity="tiny",
    keep_rate=0.5,
    reduction_loc=(3, 6, 9),
    recipe=Recipe(),
)

ATTEMPT = {
    "attempt": 1,
    "gentler": {},
    "first_step": 0,
    "step": 12,
    "found": {"classification": 1.5, "gradient norm": "inf"},
}


def finish(stored, weights=b"weights"):
    """Train and evaluate a cell, as its files tell; return it. A state and an attempt are left."""
    stored.save_last(10, b"state of step 10")
    stored.save_best(weights, {"accuracy": 50.0})
    stored.add_attempt(ATTEMPT)
    stored.write_result({"accuracy": 50.0})
    patterns = {"image": np.arange(3), "grid": np.array([8, 8]), "depth": np.array(12)}
    patterns |= {"kept_3": np.zeros((3, 2), np.uint8), "tokens_3": np.full(3, 2)}
    evaluate(stored, patterns=patterns, features={"cls_3": np.ones((3, 4))})
    return stored


def evaluate(stored, rate=None, **arrays):
    """Evaluate a cell at one of its keep rates."""
    predictions = pd.DataFrame({"image": range(3), "target": 1, "class_1": [1, 1, 2]})
    stored.evaluations()[rate].write({"accuracy": 50.0}, predictions, arrays)
