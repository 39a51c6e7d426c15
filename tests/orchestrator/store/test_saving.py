"""No line says that all is saved unless the files say so."""

import pytest

from orchestrator.store.saving import saved_in_words


def report(step):
    return {"step": step, "epoch": 1, "loss": 1.0}


def test_what_was_reported_and_not_saved_is_named(store, cell):
    stored = store.cell(cell.id)
    assert saved_in_words([stored]) == "everything is saved"
    stored.append_log(report(20))
    expected = f"not everything is saved: {cell.id} was at step 20 and goes on from step"
    assert saved_in_words([stored]) == f"{expected} 0"
    stored.save_last(10, b"state")
    assert saved_in_words([stored]) == f"{expected} 10"
    stored.save_last(20, b"state")
    assert saved_in_words([stored]) == "everything is saved"


def test_a_trained_cell_needs_no_state(stored):
    stored.append_log(report(30))
    stored.discard_states()
    assert saved_in_words([stored]) == "everything is saved"


@pytest.mark.parametrize(("count", "further"), [(3, ""), (5, ", 2 further cells")])
def test_a_few_cells_are_named(store, cell, count, further):
    stored = store.cell(cell.id)
    stored.append_log(report(5))
    words = saved_in_words([stored] * count)
    assert words.count(cell.id) == 3
    assert words.endswith(f"step 0{further}")


def test_a_storage_that_cannot_be_read_is_no_promise(store, cell, monkeypatch):
    stored = store.cell(cell.id)

    def fail():
        raise OSError("gone")

    monkeypatch.setattr(stored, "last_report", fail)
    assert saved_in_words([stored]) == "what is saved cannot be checked: gone"
