"""Evaluations between epochs: what they share."""


def test_evaluations_share_their_loader_processes(make_cell, finetune, own_processes):
    alone, finetuning = finetune(make_cell()), finetune(make_cell(loader_workers=2))
    alone.evaluate()
    finetuning.evaluate()
    started = own_processes()
    assert len(started) == 2
    finetuning.evaluate()
    assert own_processes() == started
    finetuning.close()
    assert not own_processes()
    finetuning.evaluate()
    assert finetuning.accuracy == alone.accuracy
    finetuning.close()
