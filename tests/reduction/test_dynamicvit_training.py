"""DynamicViT's training pass against arrays made with the published study's own code."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F

import reduction
from reduction.attention import policy_attention, policy_softmax
from reduction.methods import dynamicvit


@pytest.fixture(scope="module")
def arrays(reference_training):
    return reference_training


@pytest.fixture(scope="module")
def model(reference_host, reference_extras):
    host = copy.deepcopy(reference_host)
    reduced = reduction.reduce(host, "dynamicvit", keep_rate=0.7)
    for index, stage in enumerate(reduced.stages):
        for name, parameter in stage.named_parameters():
            parameter.data = reference_extras[f"dyvit.stage{index}.{name}"].clone()
    return reduced.train()


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("kept", ["all_kept", "policy01"])
def test_predictor(model, arrays, stage, kept):
    tokens, policy = arrays["predictor/tokens"], arrays["predictor/policy01"][..., 0]
    policy = policy if kept == "policy01" else torch.ones_like(policy)
    expected = arrays[f"predictor/stage{stage}_logp_{kept}"]
    found = model.stages[stage].log_probabilities(tokens, policy)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    exact = copy.deepcopy(model.stages[stage]).double()
    found = exact.log_probabilities(tokens.double(), policy.double())
    expected = arrays[f"predictor/stage{stage}_logp_{kept}_f64"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("pooling", [{}, {"global_pool": "avg", "class_token": False}])
def test_an_image_of_which_nothing_is_kept_trains_on(make_host, small_images, monkeypatch, pooling):
    """Its tokens attend to themselves and CLS; a mean over no token is 0, not 0 / 0."""
    model = reduction.reduce(
        make_host(**pooling), "dynamicvit", keep_rate=0.5, reduction_loc=(1, 2)
    ).train()
    decide, first = dynamicvit.straight_through, torch.zeros(len(small_images), 1, 1)
    first[1:] = 1  # Of the first image every stage keeps nothing.
    monkeypatch.setattr(dynamicvit, "straight_through", lambda logits: decide(logits) * first)
    logits, trace = model.forward_with_trace(small_images)
    assert not trace.decisions[1][0].any()
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_policy_attention(arrays):
    scores, policy = arrays["policy_attention/scores"], arrays["policy_attention/policy"][..., 0]
    expected = arrays["policy_attention/probs"]
    torch.testing.assert_close(policy_softmax(scores, policy), expected, rtol=0, atol=1e-6)
    expected = arrays["policy_attention/probs_all_kept"]
    everything = torch.ones_like(policy)
    torch.testing.assert_close(policy_softmax(scores, everything), expected, rtol=0, atol=1e-6)


def test_fused_policy_attention(arrays):
    """With the identity as keys and values, logits are the queries and outputs probabilities."""
    scores, policy = arrays["policy_attention/scores"], arrays["policy_attention/policy"][..., 0]
    identity = torch.eye(scores.shape[-1]).expand_as(scores)
    for kept, name in ((policy, "probs"), (torch.ones_like(policy), "probs_all_kept")):
        found = policy_attention(scores, identity, identity, kept, scale=1.0)
        torch.testing.assert_close(found, arrays[f"policy_attention/{name}"], rtol=0, atol=1e-6)


def attention_inputs(peaked=1.0, dtype=torch.float64):
    """Queries, keys, values, and a policy that keeps some tokens, drops some and halves one."""
    draw = torch.Generator().manual_seed(0)
    heads = [torch.randn(2, 3, 21, 12, generator=draw, dtype=dtype) for _ in range(3)]
    policy = (torch.rand(2, 21, generator=draw) > 0.5).to(dtype)
    policy[:, 4] = 0.5
    return [x.requires_grad_() for x in (peaked * heads[0], *heads[1:], policy)]


def materialised(queries, keys, values, policy, scale):
    return policy_softmax(queries @ keys.mT * scale, policy).to(values.dtype) @ values


@pytest.mark.parametrize("peaked", [1, 6, 30])
def test_fused_and_materialised_policy_attention_are_the_same_function(peaked):
    inputs = attention_inputs(peaked)
    found, expected = (f(*inputs, 0.3) for f in (policy_attention, materialised))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    direction = torch.randn(
        found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1)
    )
    ours, theirs = (torch.autograd.grad(x, inputs, direction) for x in (found, expected))
    for gradient, expected in zip(ours, theirs, strict=True):
        atol = 1e-11 * expected.abs().max().item()
        torch.testing.assert_close(gradient, expected, rtol=0, atol=atol)
    dropped = inputs[3] == 0
    assert dropped.any()
    assert ours[3][dropped].abs().min() > 0


def test_fused_policy_attention_in_bfloat16():
    inputs = attention_inputs(dtype=torch.float32)
    rounded = [x.bfloat16() for x in inputs]
    found, expected = policy_attention(*rounded, 0.3), materialised(*inputs, 0.3)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.03)


def saved_maps(host, images):
    """Train on images; return the shapes of the [36, 36] tensors kept for the backward pass."""
    model = reduction.reduce(host, "dynamicvit", keep_rate=0.5, reduction_loc=(1,)).train()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.shape) or x, id):
        model(images)
    return [shape for shape in saved if tuple(shape[-2:]) == (36, 36)]


def test_training_keeps_no_attention_map(make_host, small_images):
    assert not saved_maps(make_host(), small_images)
    assert saved_maps(make_host(attn_drop_rate=0.1), small_images), "dropout acts on a map"


@pytest.fixture(scope="module")
def training_pass(model, arrays, reference_images):
    noise = iter([arrays[f"train_forward/stage{stage}_gumbel"] for stage in range(3)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamicvit, "gumbel_noise", lambda logits: next(noise))
        return model.forward_with_trace(reference_images)


def test_training_pass(training_pass, arrays):
    logits, trace = training_pass
    for stage, block in enumerate((3, 6, 9)):
        kept = arrays[f"train_forward/stage{stage}_keep"]
        assert torch.equal(trace.decisions[block], kept)
        assert trace.tokens[block].tolist() == [196] * 4
    torch.testing.assert_close(logits, arrays["train_forward/logits"], rtol=0, atol=5e-5)
    torch.testing.assert_close(trace.features, arrays["train_forward/tokens"], rtol=0, atol=5e-5)


def test_training_gradients(training_pass, model, arrays, teacher, reference_images, facts):
    """The whole objective, written out: cross entropy, ratios, and both distillation terms."""
    logits, trace = training_pass
    labels = torch.tensor(facts["train_forward/labels"])
    with torch.no_grad():
        goal, goal_features = teacher(reference_images), teacher.forward_features(reference_images)
    loss = F.cross_entropy(logits, labels)
    for decision, rate in zip(trace.decisions.values(), (0.7, 0.49, 0.343), strict=True):
        loss = loss + 2 / 3 * (decision.mean(dim=1) - rate).square().mean()
    kept = trace.decisions[9].detach() > 0.5
    loss = loss + 0.5 * F.kl_div(
        logits.log_softmax(-1), goal.log_softmax(-1), reduction="batchmean", log_target=True
    )
    loss = loss + 0.5 * F.mse_loss(trace.features[kept], goal_features[:, 1:][kept])
    assert loss.item() == pytest.approx(facts["train_forward/total_loss"], rel=1e-5)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for key, expected in arrays.items():
        name = key.removeprefix("train_forward/grad/")
        if name != key:
            ours = gradients[name.replace("dyvit.stage", "stages.")]
            atol = 5e-5 * expected.abs().max().item()
            torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def teacher(reference_host, arrays):
    network = copy.deepcopy(reference_host)
    prefix = "teacher_weights/"
    weights = {key.removeprefix(prefix): value for key, value in arrays.items() if prefix in key}
    network.load_state_dict(weights)
    return network.eval()


@pytest.fixture(scope="module")
def facts(golden_folder):
    return json.loads((golden_folder / "training_A.json").read_text())


def test_masked_tokens_do_not_reach_the_output(make_host, small_images):
    """In training, an average-pooling head leaves out what is masked, as evaluation drops it."""
    host = make_host(global_pool="avg", class_token=False)
    model = reduction.reduce(host, "dynamicvit", keep_rate=0.5, reduction_loc=(1,)).train()
    torch.manual_seed(0)
    logits, trace = model.forward_with_trace(small_images)
    kept = trace.decisions[1].detach()[..., None]
    mean = (trace.features * kept).sum(dim=1) / kept.sum(dim=1)
    torch.testing.assert_close(logits, host.head(host.fc_norm(mean)), rtol=0, atol=1e-5)
