"""Gives tuned cells the values that their trials have chosen, as they begin to train."""

import json
from collections.abc import Callable
from dataclasses import replace

from orchestrator.store.searches import Choice, Search, stored_choice
from orchestrator.store.store import Store
from orchestrator.study.trials import Searches
from trainables.trial.config import TrialConfig


class Choices:
    """The choices of a launch, each made once all its trials are trained.

    Args:
        store: The study's store, which holds the trials' results.
        searches: What there is to choose.
        say: Called with a line about each choice.
    """

    def __init__(self, store: Store, searches: Searches, say: Callable[[str], None]) -> None:
        self._store = store
        self._searches = searches
        self._say = say
        self._made: dict[str, Choice] = {}
        """By the id of the first cell that waits for it."""

    def applied(self, config: TrialConfig) -> TrialConfig:
        """Return the configuration of a cell with the values chosen for it, if there are any."""
        search = self._searches.of(config.cell_id)
        if search is None:
            return config
        return replace(config, tuned=json.dumps(dict(self._choice(search).values)))

    def _choice(self, search: Search) -> Choice:
        key = search.cells[0]
        if key not in self._made:
            choice = stored_choice(self._store, search)
            if choice is None:
                raise RuntimeError(f"{search.name}: a cell begins before its trials are trained")
            self._made[key] = choice
            self._say(f"{search.name}: {choice}")
        return self._made[key]
