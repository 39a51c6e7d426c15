"""Actors that are gone because their node is: no fault of what ran in them."""

from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

NODE_DIED = "node has died"
"""What Ray reports of an actor whose node is dead; `ActorDiedError` drops the reason's type.

https://github.com/ray-project/ray/blob/ray-2.60.0/src/ray/gcs/actor/gcs_actor_manager.cc
https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/exceptions.py#L510
"""


class LostWithNodeError(RuntimeError):
    """What an actor worked with is gone together with a node."""


def is_lost_with_node(error: BaseException | None) -> bool:
    """Return whether an actor failed because of its node: lost, preempted or out of reach.

    A process that dies alone is reported by its node at once; where nobody reports anything, the
    node itself is silent.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, (ActorUnavailableError, LostWithNodeError)):
        return True
    return isinstance(cause, RayActorError) and (cause.preempted or NODE_DIED in str(cause))
