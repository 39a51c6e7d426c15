"""What `reduce` refuses, what it shares, and the way back."""

import copy
import pickle
import re
import subprocess
import sys

import pytest
import timm
import torch

import reduction

REFUSED = {
    "unknown method": (
        {"method": "topq"},
        f"method is 'topq', but must be one of {', '.join(reduction.METHODS)}",
    ),
    "rate of 0": ({"keep_rate": 0}, "keep_rate is 0, but must be in (0, 1]"),
    "rate above 1": ({"keep_rate": 1.2}, "keep_rate is 1.2, but must be in (0, 1]"),
    "rate that is no number": (
        {"keep_rate": float("nan")},
        "keep_rate is nan, but must be in (0, 1]",
    ),
    "list of rates with one outside": (
        {"keep_rate": [0.5, 0.0]},
        "keep_rate is 0, but must be in (0, 1]",
    ),
    "list too short": (
        {"keep_rate": [0.5]},
        "keep_rate has 1 values [0.5], but must be one number or have one value for each of the "
        "2 stages",
    ),
    "list that rises": (
        {"keep_rate": [0.5, 0.7]},
        "keep_rate is [0.5, 0.7], but must not rise from stage to stage",
    ),
    "no tokens left": (
        {"keep_rate": 0.1},
        "keep_rate leaves 0 tokens (fraction 0.01 of 35 patch tokens), but must leave at least 1 "
        "at every stage",
    ),
    "block too deep": (
        {"reduction_loc": (1, 4)},
        "reduction_loc has block 4, but must be within 0..3 for a host of 4 blocks",
    ),
    "negative block": (
        {"reduction_loc": (-1, 2)},
        "reduction_loc has block -1, but must be within 0..3 for a host of 4 blocks",
    ),
    "blocks out of order": (
        {"reduction_loc": (2, 1)},
        "reduction_loc is [2, 1], but must be ascending block indices",
    ),
    "block repeated": (
        {"reduction_loc": (1, 1)},
        "reduction_loc is [1, 1], but must be ascending block indices",
    ),
    "no block": (
        {"reduction_loc": ()},
        "reduction_loc is [], but must be ascending block indices",
    ),
    "unknown option": (
        {"method": "dpcknn", "equal": True, "knn": 3},
        "dpcknn has no option equal, knn, but must be among neighbours, equal_weight",
    ),
    "option where there are none": (
        {"method": "hatp", "equal": True},
        "hatp has no option equal, but the method has none",
    ),
    "option out of range": (
        {"method": "dpcknn", "neighbours": 0},
        "neighbours is 0, but must be at least 1",
    ),
    "radius around no patch": (
        {"method": "linf", "schedule": "linear", "min_radius": -9.0},
        "min_radius is -9, but must leave at least 1 token",
    ),
    "no block to look back at": (
        {"method": "kmedoids", "reduction_loc": (0, 1)},
        "reduction_loc starts at block 0, but must start at 1 or later for kmedoids, which looks "
        "at the attention of the block before",
    ),
    "cost not among the allowed": (
        {"method": "kmedoids", "cost": "all"},
        "cost is 'all', but must be one of global, within",
    ),
    "rounds below 0": (
        {"method": "kmedoids", "iters": -1},
        "iters is -1, but must be at least 0",
    ),
    "linkage not among the allowed": (
        {"method": "atc", "linkage": "ward"},
        "linkage is 'ward', but must be one of average, single, complete",
    ),
    "option not among the allowed": (
        {"method": "l2", "schedule": "even"},
        "schedule is 'even', but must be one of matched, linear",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_arguments(small_host, changes, message):
    arguments = {"method": "topk", "keep_rate": 0.7, "reduction_loc": (1, 2)} | changes
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        reduction.reduce(small_host, **arguments)


def test_refused_types(small_host):
    with pytest.raises(TypeError, match=r"^model is a Linear, but must be a timm VisionTransform"):
        reduction.reduce(torch.nn.Linear(2, 2), "topk")
    with pytest.raises(
        TypeError, match=r"equal_weight of dpcknn is 'yes', but must be of type bool"
    ):
        reduction.reduce(small_host, "dpcknn", reduction_loc=(1,), equal_weight="yes")
    with pytest.raises(TypeError, match="is a VisionTransformer, but must be a reduced model"):
        reduction.unreduce(small_host)


def test_a_reduced_model_is_not_reduced_again(small_host):
    model = reduction.reduce(small_host, "topk", reduction_loc=(1,))
    with pytest.raises(ValueError, match="already reduced by topk, but must be a plain host"):
        reduction.reduce(model, "tome", reduction_loc=(1,))


def test_places_of_patches_need_all_patches(make_host):
    with pytest.raises(ValueError, match="has patch dropout, but must keep all patches for l2"):
        reduction.reduce(make_host(patch_drop_rate=0.5), "l2", reduction_loc=(1,))


def test_a_host_with_its_own_walk_is_refused(small_host):
    class OwnWalk(timm.models.VisionTransformer):
        def forward_features(self, x):
            return super().forward_features(x) + 1

    small_host.__class__ = OwnWalk
    with pytest.raises(ValueError, match="host is a OwnWalk, but must walk its blocks as timm's"):
        reduction.reduce(small_host, "topk", reduction_loc=(1,))


def test_weights_are_shared_both_ways(small_host, small_images):
    model = reduction.reduce(small_host, "sit", keep_rate=0.5, reduction_loc=(1,))
    plain = reduction.unreduce(model)
    assert type(plain) is type(small_host)
    assert set(plain.state_dict()) == set(small_host.state_dict())
    with torch.no_grad():
        model.head.bias.add_(1.0)
        model.cls_token.add_(1.0)
    assert torch.equal(plain(small_images), small_host(small_images))
    assert plain.head.bias is model.head.bias
    assert len(model.stages) == 1


def test_replacing_a_head_leaves_the_host_alone(small_host, small_images):
    model = reduction.reduce(small_host, "topk", keep_rate=0.5, reduction_loc=(1,))
    model.reset_classifier(3)
    assert model(small_images).shape == (3, 3)
    assert small_host(small_images).shape == (3, 10)


def test_stages_follow_device_type_and_mode(make_host):
    host = make_host().double().train()
    model = reduction.reduce(host, "sit", reduction_loc=(1,))
    assert model.stages[0].fc1.weight.dtype == torch.float64
    assert model.stages[0].training


def test_one_class_for_all_reduced_models_of_a_host_class(small_host):
    first = reduction.reduce(small_host, "topk", reduction_loc=(1,))
    second = pickle.loads(pickle.dumps(reduction.reduce(small_host, "tome", reduction_loc=(1,))))
    assert type(first) is type(second) is type(copy.copy(first))


def test_the_method_list_needs_no_torch():
    code = (
        "import sys, reduction; names = list(reduction.METHODS); "
        "assert 'topk' in names and 'topk' in reduction.METHODS and len(reduction.METHODS); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    for name in reduction.__all__:
        assert getattr(reduction, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'prune'"):
        _ = reduction.prune


def test_method_information():
    info = reduction.METHODS["dpcknn"]
    assert info.family == "merging"
    assert info.options == {"neighbours": 5, "equal_weight": False}
    assert info.fixed_budget
    assert "TCFormer" in info.citation
    with pytest.raises(KeyError, match="topq"):
        reduction.METHODS["topq"]


def test_options_can_free_a_method_from_the_keep_rate():
    assert reduction.METHODS["l2"].fixed_budget
    assert reduction.has_fixed_budget("l2", {"min_radius": 2.0})
    assert not reduction.has_fixed_budget("l2", {"schedule": "linear"})
    assert not reduction.has_fixed_budget("ats", {})
    with pytest.raises(ValueError, match="method is 'topq', but must be one of"):
        reduction.has_fixed_budget("topq", {})
