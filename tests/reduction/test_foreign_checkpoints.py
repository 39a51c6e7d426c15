"""Checkpoints whose names, suffixes or archives are not the usual ones; a file is its content."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.serialization import config

import reduction


def changed(make_host, **kwargs):
    """A host of other values than `make_host()`, and its weights."""
    host = make_host(**kwargs)
    for parameter in host.parameters():
        parameter.data += 1
    return host.state_dict()


def test_names_of_deit_3(make_host, tmp_path):
    weights = changed(make_host, init_values=0.1)
    theirs = {re.sub(r"ls([12])\.gamma", r"gamma_\1", name): x for name, x in weights.items()}
    assert any("gamma_1" in name for name in theirs)
    torch.save({"model": theirs}, tmp_path / "deit3.pth")
    model = reduction.reduce(make_host(init_values=0.1), "topk", reduction_loc=(1,))
    reduction.load_checkpoint(model, tmp_path / "deit3.pth")
    assert all(torch.equal(model.state_dict()[name], x) for name, x in weights.items())


@pytest.mark.parametrize("prefix", ["model.", "timm_model.", "backbone.", "module.module."])
def test_names_with_a_prefix(make_host, tmp_path, prefix):
    weights = changed(make_host)
    path = tmp_path / "epoch=9.ckpt"
    torch.save({"state_dict": {prefix + name: x for name, x in weights.items()}}, path)
    host = make_host()
    reduction.load_checkpoint(host, path)
    assert all(torch.equal(host.state_dict()[name], x) for name, x in weights.items())


def test_other_names_altogether_get_no_wrong_hint(make_host, tmp_path):
    torch.save({"encoder.weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no name of the file is one of the model's$"):
        reduction.load_checkpoint(make_host(), tmp_path / "other.pth")


@pytest.mark.parametrize("name", ["model.SAFETENSORS", "model.bin", "model"])
def test_safetensors_by_another_name(make_host, tmp_path, name):
    weights = changed(make_host)
    save_file(weights, tmp_path / name)
    host = make_host()
    reduction.load_checkpoint(host, tmp_path / name)
    assert all(torch.equal(host.state_dict()[name], x) for name, x in weights.items())


def test_an_archive_without_sums(make_host, tmp_path):
    weights = changed(make_host)
    with config.patch({"save.compute_crc32": False}):
        torch.save(weights, tmp_path / "model.pth")
    host = make_host()
    reduction.load_checkpoint(host, tmp_path / "model.pth")
    assert all(torch.equal(host.state_dict()[name], x) for name, x in weights.items())
