"""Searches of the section `tuning` as the store knows them, and what each of them chooses.

STUDY/tuning.json   sealed: what there is to choose from, and which cells wait for it
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict

from orchestrator.store.store import Store
from trainables.cell.json_records import TrainingResult
from trainables.cell.tuning import Values
from trainables.storage import layout
from trainables.storage.files import DamagedFileError, read_sealed_json, write_sealed_json

Results = Mapping[str, TrainingResult]
"""Of trials by their id."""


class Candidate(BaseModel):
    """Values that may be chosen, and the trials that tell how good they are."""

    model_config = ConfigDict(frozen=True)

    values: Values
    """Field of the recipe -> value."""
    trials: tuple[str, ...]
    """Ids, one for each of what shares the choice."""


class Search(BaseModel):
    """One choice: what it is for, what there is to choose from, and who waits for it."""

    model_config = ConfigDict(frozen=True)

    recipe: str
    """Name of the recipe."""
    place: dict[str, str]
    """What the choice is for: `dataset`, `capacity` and `method`, as far as `per` names them."""
    scheduler: str
    candidates: tuple[Candidate, ...]
    cells: tuple[str, ...]
    """Ids of the cells that wait for it: those of the study, and a teacher of trials."""

    @property
    def name(self) -> str:
        """What the choice is for, in words."""
        return ", ".join([self.recipe, *self.place.values()])

    @cached_property
    def trials(self) -> tuple[str, ...]:
        """Ids of all its trials, each once."""
        return tuple(dict.fromkeys(trial for each in self.candidates for trial in each.trials))

    @property
    def all_cells(self) -> tuple[str, ...]:
        """Ids of its trials and of the cells that wait for it."""
        return (*self.trials, *self.cells)


@dataclass(frozen=True)
class Choice:
    """The values that a search has found."""

    search: Search
    values: Values
    accuracy: float
    """Of the trials on held-out images, their mean, in percent."""
    loss: float
    edges: tuple[str, ...]
    """Fields whose chosen value is the smallest or the largest that was tried."""

    def __str__(self) -> str:
        edge = f"; {self.at_edge}" if self.edges else ""
        return f"{in_words(self.values)} ({self.accuracy:.2f} % on held-out images){edge}"

    @property
    def at_edge(self) -> str:
        """What to say of values at the edge of their range, nothing where none is."""
        return " and ".join(
            f"{name} is at the edge of what was tried ({_span(self.search, name)})"
            for name in self.edges
        )


def write_searches(store: Store, searches: Sequence[Search]) -> None:
    """Record the searches of a study; a study without any has no such record."""
    path = layout.SEARCHES.below(store.path)
    if searches:
        write_sealed_json(path, {"searches": [each.model_dump(mode="json") for each in searches]})
    else:
        path.unlink(missing_ok=True)


def read_searches(store: Store) -> list[Search]:
    """Return the searches of a stored study.

    Raises:
        DamagedFileError: Their record is damaged.
    """
    record = read_sealed_json(layout.SEARCHES.below(store.path))
    return [Search.model_validate(each) for each in record["searches"]] if record else []


def choose(search: Search, results: Results) -> Choice | None:
    """Return the values with the best mean accuracy of their trials, None while one is missing.

    Equal ones are told apart by the smaller loss, then by their order. Values with which a training
    was not finite, so that it went on with gentler ones, are not chosen if others are left.

    Args:
        search: What there is to choose from.
        results: What is known of its trials, by id.
    """
    if any(trial not in results for trial in search.trials):
        return None
    sound = [each for each in search.candidates if not _gentler(each, results)]
    best = max(sound or search.candidates, key=lambda each: _score(each, results))
    accuracy, less_loss = _score(best, results)
    edges = tuple(name for name in best.values if _at_edge(search, name, best.values[name]))
    return Choice(search, best.values, accuracy, -less_loss, edges)


def stored_choice(store: Store, search: Search) -> Choice | None:
    """Return what a search has found, None while a trial is not trained."""
    return choose(search, stored_results(store, search))


def stored_results(store: Store, search: Search) -> dict[str, TrainingResult]:
    """Return the results of a search's trials that are trained, by id."""
    found = {}
    for trial in search.trials:
        try:
            result = store.cell(trial).result()
        except DamagedFileError:
            continue  # The next launch makes it again.
        if result is not None:
            found[trial] = result
    return found


def in_words(values: Values) -> str:
    """Return values as in `lr 0.001, drop_path 0`."""
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items())


def _score(candidate: Candidate, results: Results) -> tuple[float, float]:
    """Return the mean accuracy and the negated mean loss: the larger, the better."""
    found = [results[trial] for trial in candidate.trials]
    return (
        fmean(result["accuracy"] or 0.0 for result in found),
        -fmean(result["loss"] or 0.0 for result in found),
    )


def _gentler(candidate: Candidate, results: Results) -> bool:
    return any(results[trial].get("gentler") for trial in candidate.trials)


def _tried(search: Search, name: str) -> list[float]:
    """Return the different numbers that were tried of a field, ascending; [] if it has others."""
    values = [each.values[name] for each in search.candidates]
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in values):
        return []
    return sorted(set(values))


def _at_edge(search: Search, name: str, value: Any) -> bool:
    tried = _tried(search, name)
    return len(tried) > 1 and value in (tried[0], tried[-1])


def _span(search: Search, name: str) -> str:
    tried = _tried(search, name)
    return f"{tried[0]:g} to {tried[-1]:g}"


def _plain(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if number else json.dumps(value)
