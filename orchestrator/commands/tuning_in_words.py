"""What the section `tuning` of a study takes and has found, told on the console."""

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from orchestrator.errors import UserError
from orchestrator.store.searches import Search, in_words, read_searches, stored_choice
from orchestrator.store.store import Store
from orchestrator.study.selection import Selection
from trainables.cell.cell import is_trial


def tuning_in_words(selection: Selection, seconds: Mapping[str, float]) -> Iterator[str]:
    """Yield what each section takes, and what is found already.

    Args:
        selection: The study.
        seconds: Expected training time of each cell that is left, by id.
    """
    for name in selection.study.tuning:
        searches = [search for search in selection.searches.all if search.recipe == name]
        if searches:
            yield f"tuning {name}: {_cost(selection, searches, seconds)}"
    for search in selection.searches.all:
        if choice := stored_choice(selection.store, search):
            yield f"tuning {search.name}: {choice}"


def _cost(selection: Selection, searches: Sequence[Search], seconds: Mapping[str, float]) -> str:
    trials = {trial for search in searches for trial in search.trials}
    teachers = {cell for search in searches for cell in search.cells if is_trial(cell)}
    apart = trials | teachers
    done = sum(selection.store.cell(cell_id).is_trained() for cell_id in apart)
    hours, whole = sum(seconds.get(cell_id, 0.0) for cell_id in apart) / 3600, sum(seconds.values())
    share = f", {100 * 3600 * hours / whole:.0f} % of what is left" if whole else ""
    lengths = {trial.recipe.epochs for trial in selection.searches.trials if trial.id in trials}
    halved = "; asha stops those that are behind" if searches[0].scheduler == "asha" else ""
    taught = f" and {len(teachers)} to teach some of them" if teachers else ""
    return (
        f"{len(trials)} trials of {' or '.join(map(str, sorted(lengths)))} epochs{taught} for "
        f"{len(searches)} choices; {done} trained, the others {'at most' if halved else 'about'} "
        f"{hours:.2g} GPU hours{share}{halved}"
    )


def trials_table(store: Store) -> Table:
    """Return a row a trial: what it is for, what it tries, how far it is and what it reached.

    Raises:
        UserError: The study has no section `tuning`.
    """
    searches = read_searches(store)
    if not searches:
        raise UserError(f"{store.path} has no section tuning, so there are no trials to list")
    table = Table(box=None, pad_edge=False)
    for column in ("trial", "for", "values", "state", "epoch", "held out", "loss", ""):
        table.add_column(column, overflow="fold")
    for search in searches:
        choice = stored_choice(store, search)
        for candidate in search.candidates:
            chosen = choice is not None and candidate.values == choice.values
            words = in_words(candidate.values)
            for trial in candidate.trials:
                table.add_row(*_row(store, search, trial, words), "chosen" if chosen else "")
        for teacher in filter(is_trial, search.cells):
            table.add_row(*_row(store, search, teacher, "teaches trials"), "")
    return table


def _row(store: Store, search: Search, trial: str, tries: str) -> list[str]:
    stored = store.cell(trial)
    report, result = stored.last_report(), stored.result() if stored.is_trained() else None
    accuracy = report.get("best_accuracy") if result is None else result["accuracy"]
    loss = result and result["loss"]
    stopped = "stopped" if result and result.get("stopped") else ""
    return [
        trial,
        search.name,
        tries,
        ", gentler: ".join(filter(None, (stopped or str(stored.state()), stored.gentler()))),
        f"{report['epoch']}/{report['epochs']}" if report else "",
        f"{accuracy:.2f} %" if accuracy is not None else "",
        f"{loss:.3f}" if loss is not None else "",
    ]
