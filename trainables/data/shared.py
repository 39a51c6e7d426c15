"""One decode-and-augment stream for all cells of a node that train on the same batches.

What a batch holds is a function of its draws (epoch, image, copy), the seed and the settings that
shape its images. So its name is their hash, and a batch that another cell has made is the batch
that this one would make: wherever the cells stand, none can get a wrong one. There is no server
and no cell that leads. Whoever needs a batch, in its loader processes or in the training process,

1. takes it, if it lies in the node's folder (`shared_folder`);
2. else makes it and puts it there, unless another process is at it just now;
3. else makes, meanwhile, one of the next batches that nobody has begun, which all will need soon,
   or waits if there is none; then looks again;
4. makes it after all where the other process takes too long.

So cells in step share the work: each batch is made once, by as many processes as there are. The
claim on a batch is a lock that dies with its process, the next one takes over at once; of a cell
that is stopped or slow, the others do step 4 once a claim. A cell in another place or epoch finds
nothing it needs, and makes its batches itself, as it would alone. Memory is bounded: the oldest
batches make room. A cell that falls behind by more than what is kept is one in another place.
Where there is no room at all, nobody waits for anybody.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from trainables.data.base import Split, Subset
from trainables.data.cache import CachedSplit
from trainables.data.image_files import FileSplit
from trainables.data.shared_folder import Batch, SharedFolder, nbytes

PATIENCE_SECONDS = 10.0
"""How long to wait for a batch that another process makes, or twice as long as making the last one
took here, if that is longer."""
POLL_SECONDS = 0.02
REACH = 64
"""How many batches ahead to make one while waiting."""
LIBRARIES = ("numpy", "pillow", "timm", "torch", "torchvision")

Draws = Sequence[tuple[int, int, int]]


def stream_name(settings: Mapping[str, object], split: Split) -> str:
    """Return a name for all batches that are made alike.

    Args:
        settings: All that shapes an image but the split, as JSON values.
        split: Where the images come from.
    """
    libraries = {name: version(name) for name in LIBRARIES}
    facts = {"settings": settings, "split": _facts(split), "libraries": libraries}
    return _hash(json.dumps(facts, sort_keys=True).encode())


def _facts(split: Split) -> list[Any]:
    """Return what tells a split from others, as JSON values."""
    match split:
        case Subset():
            return ["subset", _hash(np.asarray(split.indices).tobytes()), *_facts(split.split)]
        case CachedSplit():
            return ["cached", split.side, split.pixels_digest(), *_facts(split.split)]
        case FileSplit():
            files = _hash(split.names.tobytes() + split.targets.tobytes())
            return ["files", str(split.root.absolute()), files]
    return [type(split).__qualname__, len(split)]


class SharedBatches(Dataset[Batch]):
    """The batches of a training by their places in it, each made by one of all that need it.

    Args:
        make: Makes a batch from its draws.
        draws: Draws of a batch, by its place in the training.
        count: How many batches there are.
        stream: Name of all that a batch depends on beside its draws; see `stream_name`.
        folder: Where batches are shared.
    """

    def __init__(
        self,
        make: Callable[[Draws], Batch],
        draws: Callable[[int], Draws],
        count: int,
        stream: str,
        folder: SharedFolder,
    ) -> None:
        self._make = make
        self._draws = draws
        self._count = count
        self._stream = stream
        self._folder = folder
        self._patience = PATIENCE_SECONDS
        self._names: dict[int, str] = {}
        self._bytes = 0
        """Of the last batch made."""
        self._sound = count
        """Place of a batch that could not be made ahead of its time; the number of all if none."""

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> Batch:
        name = self._name(place)
        give_up = time.monotonic() + self._patience
        while True:
            batch = self._folder.read(name)
            if batch is None:
                batch = self._made_unless_claimed(place, name)
            if batch is not None:
                return batch
            if time.monotonic() >= give_up:
                return self._made(place, name)
            if not self._worked_ahead(place):
                time.sleep(POLL_SECONDS)

    def _made_unless_claimed(self, place: int, name: str) -> Batch | None:
        """Make a batch, unless another process does or, by now, has."""
        with self._folder.claim(name) as mine:
            return self._made(place, name) if mine and not self._folder.has(name) else None

    def _made(self, place: int, name: str) -> Batch:
        start = time.monotonic()
        batch = self._make(self._draws(place))
        took = time.monotonic() - start
        self._bytes = nbytes(batch)
        room = self._folder.publish(name, batch)
        # Without room nobody's batch comes to be there, however long one waits.
        self._patience = max(PATIENCE_SECONDS, 2 * took) if room else 0
        return batch

    def _worked_ahead(self, place: int) -> bool:
        """Make the first of the next batches that nobody has begun; tell whether there was one."""
        reach = min(REACH, self._folder.most // 2 // max(1, self._bytes))
        for later in range(place + 1, min(place + 1 + reach, self._sound)):
            name = self._name(later)
            try:
                if not self._folder.has(name) and self._made_unless_claimed(later, name):
                    return True
            except Exception:  # An image that cannot be decoded, say. It is raised when it is due.
                self._sound = later
                break
        return False

    def _name(self, place: int) -> str:
        if place not in self._names:
            if len(self._names) > 2 * REACH:
                self._names.clear()
            draws = np.asarray(self._draws(place), dtype=np.int64)
            self._names[place] = _hash(self._stream.encode() + draws.tobytes())
        return self._names[place]


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
