"""Arrays that grow in files, against the same arrays put together in memory."""

import tracemalloc
import weakref

import numpy as np
import torch

from trainables.spooling import SpooledArrays


def test_arrays_are_their_batches_one_after_the_other():
    draw = torch.Generator().manual_seed(0)
    batches = [
        {"wide": torch.randn(rows, 5, generator=draw), "flat": torch.arange(rows)}
        for rows in (4, 4, 1)
    ]
    with SpooledArrays() as spooled:
        for batch in batches:
            spooled.add(batch)
        arrays = spooled.arrays()
    assert arrays.keys() == {"wide", "flat"}
    for name, array in arrays.items():
        expected = np.concatenate([batch[name].numpy() for batch in batches])
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


def test_rows_that_are_not_contiguous_are_written_in_order():
    rows = torch.arange(12).view(3, 4).T
    with SpooledArrays() as spooled:
        spooled.add({"rows": rows})
        np.testing.assert_array_equal(spooled.arrays()["rows"], rows.numpy())


def test_a_batch_is_written_only_once_the_next_one_is_there():
    """So that on a GPU its copy has had a batch's time."""
    first = torch.zeros(2, 3)
    with SpooledArrays() as spooled:
        spooled.add({"rows": first})
        first += 1
        spooled.add({"rows": torch.zeros(2, 3)})
        first += 1
        np.testing.assert_array_equal(spooled.arrays()["rows"][:2], np.ones((2, 3)))


def test_no_batch_stays_in_memory_for_long():
    batches = []
    with SpooledArrays() as spooled:
        tracemalloc.start()
        for number in range(20):
            batch = torch.full((250, 1000), float(number))  # 1 MB
            batches.append(weakref.ref(batch))
            spooled.add({"rows": batch})
            del batch
            assert sum(batch() is not None for batch in batches) == 1
        rows = spooled.arrays()["rows"]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 900_000, "less than one batch, as arrays"
    assert rows[::250, 0].tolist() == list(range(20))
