"""Evaluations between epochs: what they share."""

from multiprocessing import active_children


def loader_processes():
    return {process.pid for process in active_children()}


def test_evaluations_share_their_loader_processes(make_cell, finetune):
    others = loader_processes()
    alone, finetuning = finetune(make_cell()), finetune(make_cell(loader_workers=2))
    alone.evaluate()
    finetuning.evaluate()
    started = loader_processes() - others
    assert len(started) == 2
    finetuning.evaluate()
    assert loader_processes() - others == started
    finetuning.close()
    assert not loader_processes() & started
    finetuning.evaluate()
    assert finetuning.accuracy == alone.accuracy
    finetuning.close()
