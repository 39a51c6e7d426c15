"""Methods of the user's own: every node of the cluster has to find their modules."""

from collections.abc import Iterable

from orchestrator.cluster.ask_nodes import ask_nodes
from orchestrator.errors import UserError
from reduction.methods import method_class


def check_own_methods(methods: Iterable[str]) -> None:
    """Import all `module:Class` among the methods on every node of the cluster.

    Raises:
        UserError: A node does not find one of them.
    """
    places = sorted({method for method in methods if ":" in method})
    for address, problem in ask_nodes(_problem, places) if places else ():
        if problem:
            raise UserError(f"on node {address}, {problem}: install its package there")


def _problem(places: list[str]) -> str:
    try:
        for place in places:
            method_class(place)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""
