"""ATC's kernel for GPUs: in Triton's interpreter, as machine code, and where it is used."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from reduction import agglomeration
from reduction.agglomeration import LINKAGES, agglomerate, merged_on_cuda, merged_one_by_one

triton = pytest.importorskip("triton")

INTERPRETED = """
import sys, torch
from reduction.agglomeration import merged_one_by_one, trial_distances
from reduction.agglomeration_kernel import merged_by_kernel
torch.set_num_threads(1)
known = trial_distances(8)
unknown = known[:1].clone()
unknown[0, 4] = unknown[0, :, 4] = torch.nan
for linkage in sys.argv[1:]:
    print(merged_by_kernel(known, 5, linkage).equal(merged_one_by_one(known, 5, linkage)))
    print(len(merged_by_kernel(unknown, 5, linkage).unique()) == 8 - 5)
"""


def test_it_merges_as_plain_code_does_also_where_distances_are_equal_or_no_numbers(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # To be set before a kernel is imported.
    command = [sys.executable, "-c", INTERPRETED, *LINKAGES]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.stdout.split() == ["True"] * 2 * len(LINKAGES), ended.stderr


def test_it_becomes_machine_code_that_rounds_as_torch_does():
    """What a kernel is on an H100: no fused product, and division to the nearest."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from reduction.agglomeration_kernel import LINKAGES as NUMBERS
    from reduction.agglomeration_kernel import merge_nearest

    types = {"distance": "*fp32", "leader": "*i64", "count": "i32", "merges": "i32"}
    constants = {"LINKAGE": NUMBERS["average"], "BLOCK": 256}
    source = ASTSource(merge_nearest, {**types, **dict.fromkeys(constants, "constexpr")}, constants)
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": 1, "enable_fp_fusion": False},
    )
    assert "div.rn.f32" in compiled.asm["ptx"]
    assert "fma." not in compiled.asm["ptx"]
    assert compiled.asm["ptx"].count("bar.sync") >= 2
    assert compiled.asm["cubin"]


class TestWhereItIsUsed:
    """On CPU tensors, with what looks at a GPU and the kernel itself in their places."""

    DISTANCE = agglomeration.trial_distances(9)

    @pytest.fixture
    def called(self, monkeypatch):
        """Return what the kernel was called with; it does what plain code does."""
        called = []

        def kernel(distance, merges, linkage):
            called.append((tuple(distance.shape), merges, linkage))
            return merged_one_by_one(distance, merges, linkage)

        self.replace(monkeypatch, kernel)
        return called

    def replace(self, monkeypatch, kernel):
        module = SimpleNamespace(merged_by_kernel=kernel)
        monkeypatch.setitem(sys.modules, "reduction.agglomeration_kernel", module)
        monkeypatch.setattr(agglomeration, "_AGREES", {})
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)

    def merged(self, merges=5):
        return merged_on_cuda(self.DISTANCE, merges, "average")

    def expected(self, merges=5):
        return merged_one_by_one(self.DISTANCE, merges, "average")

    def test_it_is_tried_once_and_then_used(self, called):
        for _ in range(2):
            assert self.merged().equal(self.expected())
        assert called == [((2, 9, 9), 6, "average"), *[((2, 9, 9), 5, "average")] * 2]

    @pytest.mark.parametrize(
        ("kernel", "reason"),
        [
            (lambda distance, merges, linkage: torch.zeros(2, 9, dtype=torch.int64), "other pairs"),
            (lambda distance, merges, linkage: 1 // 0, "ZeroDivisionError"),
        ],
    )
    def test_one_that_is_wrong_or_fails_is_named_once_and_not_used(
        self, monkeypatch, kernel, reason
    ):
        self.replace(monkeypatch, kernel)
        with pytest.warns(UserWarning, match=f"kernel is not used on this GPU: .*{reason}"):
            assert self.merged().equal(self.expected())
        assert self.merged().equal(self.expected())

    def test_a_graph_that_is_captured_before_it_was_tried_does_without(self, called, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert self.merged().equal(self.expected())
        assert called == []

    def test_a_cpu_and_double_precision_have_none(self):
        assert not agglomeration.has_kernel(self.DISTANCE)
        with torch._subclasses.fake_tensor.FakeTensorMode():
            on_gpu = torch.empty(2, 9, 9, device="cuda")
            assert agglomeration.has_kernel(on_gpu)
            assert not agglomeration.has_kernel(on_gpu.double())
            assert agglomerate(on_gpu, 4, "average").shape == (2, 9)

    def test_compiled_it_stays_one_operator_of_one_graph(self, called, monkeypatch):
        monkeypatch.setattr(agglomeration, "has_kernel", lambda distance: True)
        expected = agglomerate(self.DISTANCE, 4, "average")
        torch.compiler.reset()
        compiled = torch.compile(agglomerate, fullgraph=True, backend="aot_eager")
        assert compiled(self.DISTANCE, 4, "average").equal(expected)
        torch.compiler.reset()
