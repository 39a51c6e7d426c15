"""Who teaches a cell, what must fit, and that the loop listens."""

import dataclasses

import pytest
import timm
import torch
from safetensors.torch import save
from timm.models import save_for_hf

from trainables.cell.cell_folder import CellFolder
from trainables.data import open_dataset
from trainables.loop.opening import open_finetuning
from trainables.models.distillation import Teacher
from trainables.models.host import build_model
from trainables.models.teacher import check_distillation, load_teacher, pretrained_teacher
from trainables.storage.files import DamagedFileError, write_atomic

DIGITS_TEACHER = "digits_small_patch4_32"
DISTILLED = {"host": "deit_tiny_distilled_patch16_224", "image_size": 64, "teacher": DIGITS_TEACHER}
"""16 patches: the smallest that can be reduced three times."""


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits")


@pytest.fixture
def trained(make_cell, tmp_path):
    """An unreduced cell and its folder in the store, as training leaves it."""
    return as_trained(make_cell("deit", keep_rate=1.0), tmp_path)


def as_trained(cell, path, host_weights=None):
    weights = build_model(cell, 10, weights=host_weights).state_dict()
    folder = CellFolder(path / cell.id)
    write_atomic(folder.path / "cell.json", cell.model_dump_json().encode())
    folder.save_best(save(weights), {})
    return cell, folder, weights


def student_of(make_cell, prerequisite, **fields):
    cell = make_cell("dynamicvit", distillation="dynamicvit", **fields)
    return cell.model_copy(update={"prerequisite": prerequisite})


def test_a_trained_cell_teaches_with_its_best_weights(make_cell, trained, digits):
    cell, folder, weights = trained
    student = student_of(make_cell, cell.id)
    teacher = load_teacher(student, build_model(student, 10), digits, folder.path)
    found = teacher.network.state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert not any(p.requires_grad for p in teacher.network.parameters())
    assert not teacher.network.training


def test_a_trained_cell_is_what_the_folder_of_weights_says(make_cell, tmp_path, digits):
    host = {"host": "deit_tiny_patch16_224", "image_size": 64}
    small = {"embed_dim": 24, "num_heads": 3}
    vit = timm.create_model(host["host"], **small)
    save_for_hf(vit, tmp_path / host["host"], model_args=small)
    baseline = make_cell("deit", keep_rate=1.0, **host)
    cell, folder, weights = as_trained(baseline, tmp_path, tmp_path)
    student = student_of(make_cell, cell.id, **host)
    model = build_model(student, 10, weights=tmp_path)
    teacher = load_teacher(student, model, digits, folder.path, tmp_path)
    assert torch.equal(teacher.network.head.weight, weights["head.weight"])


def test_damaged_weights_are_never_believed(make_cell, trained, digits):
    cell, folder, _ = trained
    path = folder.path / "best" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    student = student_of(make_cell, cell.id)
    with pytest.raises(DamagedFileError, match="model.safetensors is damaged"):
        load_teacher(student, build_model(student, 10), digits, folder.path)


def test_another_cell_s_folder_is_refused(make_cell, trained, digits):
    cell, folder, _ = trained
    student = student_of(make_cell, "digits-deit-tiny-r1-s0-00000000")
    with pytest.raises(ValueError, match=f"has {cell.id}, but must have digits-deit-tiny-r1-s0-0"):
        load_teacher(student, build_model(student, 10), digits, folder.path)


@pytest.mark.parametrize(
    ("method", "fields", "dataset", "message"),
    [
        ("topk", {"distillation": "dynamicvit"}, "digits", "none, soft or hard for topk, which"),
        ("topk", {"distillation": "soft"}, "digits", "which has no distillation head"),
        ("topk", DISTILLED | {"distillation": "hard"}, "digits_multi", "have several labels"),
        (
            "topk",
            DISTILLED | {"distillation": "hard", "teacher": "resnet18"},
            "digits",
            "teacher is 'resnet18', which tells 1000 classes apart, but must tell the dataset's 10",
        ),
        (
            "dynamicvit",
            {"distillation": "dynamicvit", "teacher": "resnet1"},
            "digits",
            "teacher is 'resnet1', but must be baseline, a model of timm, local-dir:FOLDER, or",
        ),
        (
            "dynamicvit",
            {"distillation": "dynamicvit", "teacher": DIGITS_TEACHER},
            "digits",
            "patch tokens (64, 48), but must have the student's, (64, 32) (number, channels)",
        ),
    ],
)
def test_what_does_not_fit_is_said_without_weights(make_cell, method, fields, dataset, message):
    cell = make_cell(method, dataset=dataset, **fields)
    with pytest.raises(ValueError, match="^.+$") as caught:
        check_distillation(cell, build_model(cell, 10, pretrained=False), open_dataset(dataset))
    assert message in str(caught.value)


@pytest.mark.parametrize("teacher", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_any_network_with_the_right_classes_may_teach_a_distillation_head(
    make_cell, digits, teacher
):
    cell = make_cell("topk", **DISTILLED | {"distillation": "soft", "teacher": teacher})
    many = dataclasses.replace(digits, class_names=tuple(map(str, range(1000))))
    check_distillation(cell, build_model(cell, 1000, pretrained=False), many)
    network = pretrained_teacher(cell, 1000, None, pretrained=False)
    assert Teacher(network, with_tokens=False)(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 1000)


def test_a_network_s_weights_may_come_from_a_folder(make_cell, tmp_path):
    cell = make_cell("topk", **DISTILLED | {"distillation": "soft", "teacher": "resnet18"})
    weights = pretrained_teacher(cell, 1000, None, pretrained=False).state_dict()
    with pytest.raises(OSError, match=r"teacher resnet18: .* looked for .*resnet18\.safetensors"):
        pretrained_teacher(cell, 1000, tmp_path)
    (tmp_path / "resnet18.safetensors").write_bytes(save(weights))
    found = pretrained_teacher(cell, 1000, tmp_path).state_dict()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_distillation_head_learns_from_the_teacher_alone(make_cell, image_folder, kind):
    """With all the weight on the teacher, the head for the labels does not move."""
    fields = DISTILLED | {"distillation": kind, "distillation_alpha": 1.0, "epochs": 1}
    cell = make_cell(**fields, batch_size=40, accumulation=4, weight_decay=0.0, warmup_epochs=0)
    finetuning = open_finetuning(
        cell, data_root=image_folder, device=torch.device("cpu"), threads=1
    )
    before = {name: p.clone() for name, p in finetuning.model.named_parameters()}
    report = finetuning.run(lambda: True)
    after = dict(finetuning.model.named_parameters())
    assert torch.equal(after["head.weight"], before["head.weight"])
    assert not torch.equal(after["head_dist.weight"], before["head_dist.weight"])
    assert report.loss_terms["classification"] == 0
    assert report.loss_terms["teacher's logits"] > 0


def test_dynamicvit_learns_from_the_cell_before_it(make_cell, trained, image_folder):
    cell, folder, _ = trained
    student = student_of(make_cell, cell.id, epochs=1, batch_size=80, warmup_epochs=0)
    finetuning = open_finetuning(
        student,
        data_root=image_folder,
        device=torch.device("cpu"),
        threads=1,
        teacher_folder=folder.path,
    )
    report = finetuning.run(lambda: False)
    assert list(report.loss_terms) == [
        "classification",
        "keep rate",
        "teacher's logits",
        "teacher's tokens",
    ]
    # Student and teacher have the same weights here: they differ by masks alone.
    assert 0 < report.loss_terms["teacher's tokens"] < 0.5
    assert all(report.loss_terms.values())
    assert not [name for name in finetuning.state_dict()["model"] if "teacher" in name]
