"""What cells have to say reaches the launch's console, with their names."""

from types import SimpleNamespace
from unittest import mock

from orchestrator.training.observer import TrialObserver


def test_a_cells_notes_are_shown_and_then_what_its_storage_made_it_wait_for():
    progress = mock.Mock()
    observer = TrialObserver(*(mock.Mock(), progress, mock.Mock(), mock.Mock(), mock.Mock()))
    trial = SimpleNamespace(config={"cell_id": "cell"})
    result = {"notes": ["trains without being compiled"], "storage": ["waiting for the storage"]}
    observer.on_trial_result(1, [trial], trial, result)
    observer.on_trial_result(2, [trial], trial, {"notes": [], "storage": []})
    assert [call.args for call in progress.note.call_args_list] == [
        ("cell: trains without being compiled",),
        ("cell: waiting for the storage",),
    ]
