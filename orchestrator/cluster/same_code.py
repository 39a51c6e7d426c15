"""Refuses a Ray whose processes would run other code of this project than this one does."""

from functools import lru_cache

import ray

from orchestrator.cluster.ask_nodes import ask_nodes
from orchestrator.errors import UserError
from trainables import code_digest as module
from trainables.code_digest import code_digest, code_folders, differing_code

PATIENCE_SECONDS = 60.0
"""How long nodes may take to answer. Each trial compares, too, also on nodes that join later."""


@lru_cache
def driver_digest() -> str:
    """Return the digest of the code of this process, as it was when this was first asked."""
    return code_digest()


def refuse_other_code() -> None:
    """Ask a process of each node where it finds its code, and compare that with this one's.

    Raises:
        UserError: It differs on a node.
    """
    # The functions travel as they are: a process there may have no such module, or another one.
    ray.cloudpickle.register_pickle_by_value(module)
    answers = ask_nodes(differing_code, driver_digest(), seconds=PATIENCE_SECONDS)
    for address, difference in answers:
        if difference:
            raise UserError(
                f"Ray's processes on {address} would run {difference}, but this launch runs "
                f"that in {', '.join(code_folders())}; install the same version there"
            )
