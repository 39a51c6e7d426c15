"""The reference host, images and arrays, made with the published study's own code."""

from functools import partial

import pytest
import timm
import torch
from reference_cases import GOLDENS, load, load_extras, reference_host

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
collect_ignore = [] if "cuda" in DEVICES else ["test_cuda.py"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _convolutions_in_float32():
    torch.backends.cudnn.allow_tf32 = False  # by default CUDA computes them in TF32


@pytest.fixture(scope="session", params=DEVICES)
def device(request):
    """Every device of this machine in turn."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def reference_cases():
    return load("cases_A_kr025_kr070.npz")


@pytest.fixture(scope="session")
def newer_cases():
    return load("newer_cases_A.npz")


@pytest.fixture(scope="session")
def reference_modules():
    return {key: torch.from_numpy(value) for key, value in load("modules_A.npz").items()}


@pytest.fixture(scope="session")
def reference_training():
    return {key: torch.from_numpy(value) for key, value in load("training_A.npz").items()}


@pytest.fixture(scope="session")
def golden_folder():
    return GOLDENS


@pytest.fixture(scope="session")
def reference_soft_maps():
    return load("soft_maps_A_kr025_kr070.npz")


@pytest.fixture(scope="session")
def reference_extras():
    return {key: torch.from_numpy(value) for key, value in load("extras_A.npz").items()}


@pytest.fixture(scope="session", name="load_extras")
def _load_extras(reference_extras):
    """Function that gives a model's stages the reference arrays' parameters of that name."""
    return partial(load_extras, reference_extras)


@pytest.fixture(scope="session")
def reference_images():
    return torch.from_numpy(load("images_A.npz")["images"]).float()


def build_host(model_class=timm.models.VisionTransformer, **kwargs):
    """A ViT of depth 4 on a 5 x 7 grid, as small as it gets; kwargs are timm's.

    Every parameter is off its initial value, norms and biases included.
    """
    torch.manual_seed(0)
    sizes = {"img_size": (20, 28), "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}
    host = model_class(**sizes | {"num_classes": 10} | kwargs).eval()
    for parameter in host.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return host


@pytest.fixture(scope="session")
def make_host():
    return build_host


@pytest.fixture
def small_host():
    return build_host()


@pytest.fixture(scope="session")
def small_images():
    return torch.randn(3, 3, 20, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session", name="reference_host")
def _reference_host():
    return reference_host()
