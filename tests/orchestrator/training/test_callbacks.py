"""What cells have to say reaches the launch's console, with their names."""

from types import SimpleNamespace
from unittest import mock

from orchestrator.training.callbacks import TrialCallback
from trainables.cell.report import Report, TrialReport


def test_a_cells_notes_are_shown_and_then_what_its_storage_made_it_wait_for():
    progress = mock.Mock()
    callback = TrialCallback(mock.Mock(progress=progress), mock.Mock())
    trial = SimpleNamespace(config={"cell_id": "cell"})
    report = TrialReport(
        training=Report(notes=("trains without being compiled",)),
        storage=("waiting for the storage",),
    )
    callback.on_trial_result(1, [trial], trial, report.to_dict())
    callback.on_trial_result(2, [trial], trial, TrialReport(training=Report()).to_dict())
    assert [call.args for call in progress.note.call_args_list] == [
        ("cell: trains without being compiled",),
        ("cell: waiting for the storage",),
    ]
