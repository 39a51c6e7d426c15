"""Weights that cannot be had are one error for all hosts, before anything starts."""

import pytest
import timm
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from timm.models import save_for_hf

from orchestrator.errors import UserError
from orchestrator.study.host_check import check_hosts
from trainables.cell.cell import Cell
from trainables.models import host_source
from trainables.recipe import Recipe

TINY, SMALL = (f"deit_{capacity}_patch16_224.fb_in1k" for capacity in ("tiny", "small"))


def cells(*capacities, **recipe):
    return [
        Cell(
            dataset="imagenet",
            method="deit",
            capacity=capacity,
            keep_rate=1.0,
            reduction_loc=(3,),
            recipe=Recipe(**recipe),
        )
        for capacity in capacities
    ]


@pytest.fixture
def folder(tmp_path):
    """A folder with usable weights of the tiny host alone."""
    small = {"embed_dim": 24, "depth": 4}
    vit = timm.create_model("deit_tiny_patch16_224", **small)
    save_for_hf(vit, tmp_path / TINY, model_args=small, safe_serialization=True)
    return tmp_path


@pytest.fixture
def hub(monkeypatch):
    """Let the hub answer with `answers`: file -> `cached`, `there` or the error it raises."""
    answers = {}

    def cached(repository, file, revision):
        return "/cache/file" if answers.get(file) == "cached" else None

    def metadata(url, timeout):
        answer = answers.get(url.rpartition("/")[2], LocalEntryNotFoundError("no such file"))
        if answer != "there":
            raise answer

    monkeypatch.setattr(host_source, "try_to_load_from_cache", cached)
    monkeypatch.setattr(host_source, "get_hf_file_metadata", metadata)
    return answers


def test_weights_that_are_there_are_fine(folder):
    check_hosts(cells("tiny"), folder)
    check_hosts(cells("tiny", "small", pretrained=False), folder)
    check_hosts(cells("tiny", host="digits_{capacity}_patch4_32"), folder)


def test_all_hosts_are_named_with_what_to_type(tmp_path):
    with pytest.raises(UserError) as caught:
        check_hosts(cells("tiny", "small", "base"), tmp_path)
    message = str(caught.value)
    assert message.startswith("pretrained weights of 3 of 3 hosts cannot be used: deit_base_")
    for name in (TINY, SMALL):
        assert f"{name}: looked for {tmp_path / name}.safetensors, " in message
    assert "run for each: hf download timm/deit_base_patch16_224.fb_in1k --local-dir " in message
    assert "\n" not in message


def test_a_damaged_file_is_named(folder):
    path = folder / TINY / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"1 of 1 hosts .*{path} is no readable checkpoint"):
        check_hosts(cells("tiny"), folder)


@pytest.mark.parametrize(
    "answers",
    [
        {"model.safetensors": "cached"},
        {"pytorch_model.bin": "cached"},
        {"model.safetensors": "there"},
        {"pytorch_model.bin": "there"},
    ],
)
def test_the_hub_is_asked_where_no_folder_is_given(hub, answers):
    hub.update(answers)
    check_hosts(cells("tiny"), None)


def test_a_hub_out_of_reach_is_told_with_the_way_out(hub):
    hub["model.safetensors"] = OfflineModeIsEnabled("offline mode is enabled.\nand more")
    with pytest.raises(UserError) as caught:
        check_hosts(cells("tiny"), None)
    assert str(caught.value) == (
        f"pretrained weights of 1 of 1 hosts cannot be used: {TINY}: model.safetensors of "
        f"timm/{TINY} is not in the hub's cache, and the hub says: offline mode is enabled. "
        f"(with internet access, run for each: hf download timm/{TINY} --local-dir DIR/{TINY} "
        "and give that folder with --weights DIR)"
    )


def test_a_repository_without_weights_is_named(hub):
    with pytest.raises(UserError, match="has no model.safetensors or pytorch_model.bin"):
        check_hosts(cells("tiny"), None)
