"""Methods with a fixed budget compile into one graph, and never wait for a device."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import reduction

FIXED = [name for name, info in reduction.METHODS.items() if info.fixed_budget]
VARIANTS = [
    *((name, {}) for name in ("deit", *FIXED)),
    ("atc", {"linkage": "complete", "proportional": False}),
    ("kmedoids", {"cost": "within"}),
    ("kmedoids", {"equal_weight": True}),
    ("dpcknn", {"equal_weight": True}),
    ("patchmerger", {"scaled": True}),
    ("l2", {"schedule": "linear"}),
]


def build(host, method, **options):
    torch.manual_seed(1)
    return reduction.reduce(host, method, keep_rate=0.6, reduction_loc=(1, 2), **options)


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("method", ["deit", *FIXED])
def test_one_graph_that_computes_the_same(small_host, small_images, method):
    model = build(small_host, method)
    compiled = torch.compile(model, dynamic=False, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(small_images), model(small_images))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
@pytest.mark.parametrize("method", ["deit", "ats", *FIXED])
def test_jit_traces(small_host, small_images, method):
    model = build(small_host, method)
    with torch.no_grad():
        traced = torch.jit.trace(model, small_images, check_trace=False)
        torch.testing.assert_close(traced(small_images), model(small_images), rtol=0, atol=1e-5)


class Transfers(TorchDispatchMode):
    """Notes every operator that moves data from one kind of device to another."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        copies = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        if copies and len({x.device.type for x in (*args, result) if torch.is_tensor(x)}) > 1:
            self.found.append(func)
        return result


class Traced(nn.Module):
    """A model's pass with its trace."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model.forward_with_trace(images)[0]


def run_on_fake_gpu(model):
    """Run with tensors that have shapes but no values, said to be on a GPU; return transfers."""
    transfers = Transfers()
    with FakeTensorMode() as mode:
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        state = {name: mode.from_tensor(x).to("cuda") for name, x in state.items()}
        images = torch.empty(3, 3, 20, 28, device="cuda")
        with torch.no_grad(), transfers:
            logits = torch.func.functional_call(model, state, (images,))
    assert logits.shape == (3, 10)
    assert logits.device.type == "cuda"
    return transfers.found


@pytest.mark.parametrize(("method", "options"), VARIANTS)
def test_neither_shapes_nor_the_host_depend_on_the_images(small_host, method, options):
    assert run_on_fake_gpu(build(small_host, method, **options)) == []


@pytest.mark.parametrize("keep_rate", [0.6, 1.0])
@pytest.mark.parametrize("method", FIXED)
def test_a_trace_is_taken_without_the_host(small_host, method, keep_rate):
    model = reduction.reduce(small_host, method, keep_rate=keep_rate, reduction_loc=(1, 2))
    assert run_on_fake_gpu(Traced(model)) == []


def test_what_waits_or_copies_would_be_noticed(small_host):
    with pytest.raises(DataDependentOutputException):
        run_on_fake_gpu(build(small_host, "ats"))
    with FakeTensorMode(), Transfers() as transfers:
        torch.ones(2).to("cuda")
    assert len(transfers.found) == 1
