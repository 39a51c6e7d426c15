"""A cell's loss, with and without a teacher, against arrays of the published study."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.models import VisionTransformer
from torch.nn import functional

from reduction import ReductionTrace
from reduction.trace import Learning
from trainables.loop.objective import Objective, consistency_loss
from trainables.models.distillation import Teacher, TeacherOutput, kept_tokens_loss
from trainables.models.passes import PassOutput

PLAIN = {"mixup": 0, "cutmix": 0, "label_smoothing": 0}
MIXED = {"mixup": 0.8}
"""Mixing takes probabilities as targets."""


@pytest.fixture(scope="module")
def arrays(reference):
    with np.load(reference / "training_A.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


@pytest.fixture(scope="module")
def facts(reference):
    return json.loads((reference / "training_A.json").read_text())


@pytest.fixture(scope="module")
def images(reference):
    with np.load(reference / "images_A.npz") as stored:
        return torch.from_numpy(stored["images"]).float()


@pytest.fixture(scope="module")
def teacher(arrays):
    network = VisionTransformer(embed_dim=48, depth=12, num_heads=3, num_classes=10)
    prefix = "teacher_weights/"
    weights = {name.removeprefix(prefix): array for name, array in arrays.items() if prefix in name}
    network.load_state_dict(weights)
    return network


def make_trace(decisions, tokens):
    return ReductionTrace(
        stages=(3, 6, 9), decisions=dict(zip((3, 6, 9), decisions, strict=True)), features=tokens
    )


def total(terms):
    return sum(term.item() for term in terms.values())


@pytest.mark.parametrize(
    ("key", "labels", "fields"),
    [
        ("ce_mse", "hard_labels", PLAIN),
        ("ce_kl", "hard_labels", PLAIN | {"teacher_tokens_loss": "kl"}),
        ("soft_mse", "soft_labels", MIXED),
        ("soft_kl", "soft_labels", MIXED | {"teacher_tokens_loss": "kl"}),
        (
            "ce_mse_weights_1_0.25_3_0.7",
            "hard_labels",
            PLAIN
            | {
                "keep_rate_weight": 1.0,
                "teacher_logits_weight": 0.25,
                "teacher_tokens_weight": 3.0,
                "classification_weight": 0.7,
            },
        ),
        ("ce_mse_empty_mask", "hard_labels", PLAIN),
    ],
)
def test_dynamicvit_s_loss(make_cell, arrays, facts, key, labels, fields):
    """The arrays decide on the kept tokens apart from the last stage's decision."""
    cell = make_cell("dynamicvit", keep_rate=0.7, distillation="dynamicvit", **fields)
    inputs = {n.removeprefix("losses/"): array for n, array in arrays.items() if "losses/" in n}
    trace = make_trace([inputs[f"keep{stage}"] for stage in range(3)], inputs["tokens"])
    lesson = TeacherOutput(inputs["teacher_logits"], inputs["teacher_tokens"])
    terms = Objective(cell, "single_label")(
        PassOutput(inputs["logits"], trace), lesson, inputs[labels]
    )
    mask = inputs["mask"][..., 0] * ("empty" not in key)
    distance = kept_tokens_loss(
        inputs["tokens"], inputs["teacher_tokens"], mask, cell.recipe.teacher_tokens_loss
    )
    terms["teacher's tokens"] = cell.recipe.teacher_tokens_weight * distance
    assert total(terms) == pytest.approx(facts["losses/dynamicvit"][key], rel=1e-5)


def test_the_teacher_s_logits_and_tokens(teacher, arrays, images):
    lesson = Teacher(teacher.train(), with_tokens=True)(images)
    torch.testing.assert_close(lesson.logits, arrays["teacher/logits"], rtol=0, atol=5e-5)
    expected = arrays["teacher/tokens_first16"]
    torch.testing.assert_close(lesson.patches[:, :16], expected, rtol=0, atol=5e-5)
    assert torch.equal(Teacher(teacher, with_tokens=False)(images).logits, lesson.logits)


def test_a_whole_pass_of_dynamicvit(make_cell, teacher, arrays, facts, images):
    """From the teacher's weights and the student's pass to the sum of all terms."""
    cell = make_cell("dynamicvit", keep_rate=0.7, distillation="dynamicvit", **PLAIN)
    prefix = "train_forward/"
    trace = make_trace(
        [arrays[f"{prefix}stage{stage}_keep"] for stage in range(3)], arrays[f"{prefix}tokens"]
    )
    lesson = Teacher(teacher, with_tokens=True)(images)
    labels = torch.tensor(facts[f"{prefix}labels"])
    terms = Objective(cell, "single_label")(
        PassOutput(arrays[f"{prefix}logits"], trace), lesson, labels
    )
    assert list(terms) == ["classification", "keep rate", "teacher's logits", "teacher's tokens"]
    assert total(terms) == pytest.approx(facts[f"{prefix}total_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "alpha", "tau"),
    [("soft", 0.5, 1.0), ("soft", 0.3, 3.0), ("hard", 0.5, 1.0), ("hard", 0.3, 3.0)],
)
def test_deit_s_loss(make_cell, arrays, facts, kind, alpha, tau):
    cell = make_cell(distillation=kind, distillation_alpha=alpha, distillation_tau=tau, **PLAIN)
    logits, distilled, example = (
        arrays[f"losses/{name}"] for name in ("logits", "kd_logits", "teacher_logits")
    )
    terms = Objective(cell, "single_label")(
        PassOutput((logits, distilled)), TeacherOutput(example), arrays["losses/hard_labels"]
    )
    expected = facts["losses/distillation"][f"{kind}_alpha{alpha}_tau{tau}"]
    assert total(terms) == pytest.approx(expected, rel=1e-5)


def test_nobody_is_asked_for_a_gradient_but_the_student(make_cell, teacher, arrays, images):
    cell = make_cell("dynamicvit", keep_rate=0.7, distillation="dynamicvit", **PLAIN)
    decisions = [arrays[f"losses/keep{stage}"].clone().requires_grad_() for stage in range(3)]
    tokens, logits = (arrays[f"losses/{n}"].clone().requires_grad_() for n in ("tokens", "logits"))
    lesson = TeacherOutput(arrays["losses/teacher_logits"], arrays["losses/teacher_tokens"])
    labels = arrays["losses/hard_labels"]
    terms = Objective(cell, "single_label")(
        PassOutput(logits, make_trace(decisions, tokens)), lesson, labels
    )
    terms["teacher's tokens"].backward()
    dropped = decisions[2] == 0
    assert tokens.grad[~dropped].abs().min() > 0
    assert tokens.grad[dropped].abs().max() == 0
    assert all(decision.grad is None for decision in decisions)
    assert not Teacher(teacher, with_tokens=True)(images).patches.requires_grad


def test_the_loss_is_in_float32_under_autocast(make_cell, arrays):
    """Whatever the networks were rounded to, no term is rounded again."""
    names = ("logits", "tokens", "teacher_logits", "teacher_tokens")
    halves = {name: arrays[f"losses/{name}"].bfloat16() for name in names}
    for kind in ("mse", "kl"):
        fields = {"distillation": "dynamicvit", "teacher_tokens_loss": kind}
        objective = Objective(make_cell("dynamicvit", **fields, **PLAIN), "single_label")

        def terms(inputs, objective=objective):
            trace = make_trace([arrays[f"losses/keep{s}"] for s in range(3)], inputs["tokens"])
            lesson = TeacherOutput(inputs["teacher_logits"], inputs["teacher_tokens"])
            return objective(
                PassOutput(inputs["logits"], trace), lesson, arrays["losses/hard_labels"]
            )

        wide = terms({name: array.float() for name, array in halves.items()})
        for name, term in terms(halves).items():
            assert term.dtype is torch.float32
            assert torch.equal(term, wide[name]), name


def learned(*learning):
    """Return the trace of a pass whose stages hand these to the loss."""
    return ReductionTrace(stages=(3, 6), learning=dict(zip((3, 6), learning, strict=True)))


def test_auxiliary_heads_learn_the_labels_and_add_up(make_cell, arrays):
    logits, labels = arrays["losses/logits"], arrays["losses/hard_labels"]
    heads = [logits.flip(1), logits * 0.5]
    trace = learned(*(Learning(auxiliary_logits=head) for head in heads))
    terms = Objective(make_cell("cropr", **PLAIN), "single_label")(
        PassOutput(logits, trace), None, labels
    )
    expected = sum(functional.cross_entropy(head, labels).item() for head in heads)
    assert list(terms) == ["classification", "auxiliary heads"]
    assert terms["auxiliary heads"].item() == pytest.approx(expected, rel=1e-6)


def test_what_crosses_a_token_cut_is_averaged_over_blocks(make_cell, arrays):
    trace = learned(*(Learning(cut_loss=torch.tensor(x)) for x in (0.1, 0.3)))
    cell = make_cell("idlevit", token_cut_weight=5.0, **PLAIN)
    output = PassOutput(arrays["losses/logits"], trace)
    terms = Objective(cell, "single_label")(output, None, arrays["losses/hard_labels"])
    assert list(terms) == ["classification", "token cut"]
    assert terms["token cut"].item() == pytest.approx(5 * 0.2)


def test_idlevit_s_teacher_shows_logits_and_a_direction(make_cell, arrays):
    logits, example = arrays["losses/logits"], arrays["losses/teacher_logits"]
    trace = ReductionTrace(stages=(3,), pooled=torch.tensor([[3.0, 4.0]] * len(logits)))
    lesson = TeacherOutput(example, pooled=torch.tensor([[0.0, 2.0]] * len(logits)))
    cell = make_cell("idlevit", distillation="idlevit", teacher_logits_weight=10.0, **PLAIN)
    terms = Objective(cell, "single_label")(
        PassOutput(logits, trace), lesson, arrays["losses/hard_labels"]
    )
    ratio = example.log_softmax(1) - logits.log_softmax(1)
    divergence = (example.softmax(1) * ratio).sum(1).mean().item()
    assert list(terms) == ["classification", "teacher's logits", "teacher's direction"]
    assert terms["teacher's logits"].item() == pytest.approx(10 * divergence, rel=1e-5)
    # (0.6, 0.8) against (0, 1)
    assert terms["teacher's direction"].item() == pytest.approx(1000 * (0.36 + 0.04) / 2)


@pytest.mark.parametrize("kind", ["label", "mixed", "several"])
def test_a_fuller_pass_is_an_example_where_the_labels_are_sure(make_cell, kind):
    """Of three images the second is unsure of its label, or of both that are mixed, together."""
    logits = torch.tensor([[2.0, 0, 0, -9], [0, 2.0, 0, -9], [0, 0, 2.0, -9]])
    features, fuller = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    targets = {
        "label": torch.tensor([0, 3, 2]),
        "mixed": torch.tensor([[0.6, 0.3, 0.05, 0.05], [0.45, 0.05, 0.05, 0.45],
                               [0.05, 0.05, 0.85, 0.05]]),
        "several": torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1.0], [0, 1.0, 1.0, 0]]),
    }[kind]  # fmt: skip
    task = "multi_label" if kind == "several" else "single_label"
    found = consistency_loss(features.requires_grad_(), fuller, logits, targets, task)
    expected = ((features - fuller)[[0, 2]] ** 2).mean()
    torch.testing.assert_close(found, expected)
    found.backward()
    assert not features.grad[1].any()


def test_no_image_that_is_sure_has_no_consistency_loss():
    zeros = torch.zeros(2, 4)
    assert consistency_loss(zeros + 1, zeros, zeros, torch.tensor([0, 1]), "single_label") == 0


def test_mctf_s_two_passes_both_learn_the_labels(make_cell, arrays):
    logits, labels = arrays["losses/logits"], arrays["losses/hard_labels"]
    passes = [
        PassOutput(logits * scale, ReductionTrace(stages=(3,), pooled=logits * scale))
        for scale in (1.0, 2.0)
    ]
    cell = make_cell("mctf", consistency_weight=7.0, **PLAIN)
    terms = Objective(cell, "single_label")(replace(passes[0], fuller=passes[1]), None, labels)
    assert list(terms) == ["classification", "fuller pass", "consistency"]
    expected = functional.cross_entropy(logits * 2, labels)
    torch.testing.assert_close(terms["fuller pass"], expected)
    distance = consistency_loss(logits, logits * 2, logits, labels, "single_label")
    torch.testing.assert_close(terms["consistency"], 7 * distance)


def test_learned_numbers_are_pulled_to_the_cost_that_is_asked_for(make_cell, arrays):
    excess = torch.tensor(2e9, requires_grad=True)
    output = PassOutput(arrays["losses/logits"], learned(Learning(), Learning()), None, excess)
    terms = Objective(make_cell("diffrate", **PLAIN), "single_label")(
        output, None, arrays["losses/hard_labels"]
    )
    assert list(terms) == ["classification", "FLOPs"]
    assert terms["FLOPs"].item() == pytest.approx(5 * 2**2)
    terms["FLOPs"].backward()
    assert excess.grad.item() == pytest.approx(2 * 5 * 2 / 1e9)
