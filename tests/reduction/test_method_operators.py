"""Single reduction steps against the study's own code, and against naive loops."""

import math

import pytest
import torch

from reduction.methods import ats, dpcknn, radial, tome
from reduction.methods.sit import SiT
from reduction.stage import StageSpec
from reduction.tokens import Tokens, merge_by_size


def make_spec(num_patches=60, target=21, dim=48):
    return StageSpec(
        index=0,
        blocks=(0,),
        fractions=((target + 0.5) / num_patches,),
        grid=(1, num_patches),
        dim=dim,
        num_prefix=1,
        has_cls=True,
    )


def load_stage(stage, extras, prefix):
    for name, parameter in stage.named_parameters():
        parameter.data = extras[f"{prefix}.stage0.{name}"][: parameter.shape[0]].clone()


@pytest.mark.parametrize("requested", [17, 50])
def test_tome_merges(reference_modules, requested):
    arrays = {key[5:]: value for key, value in reference_modules.items() if key[:5] == "tome/"}
    tokens = Tokens(
        x=arrays["tokens"],
        num_prefix=1,
        num_patches=60,
        grid=(6, 10),
        sizes=arrays["sizes"][:, 1:, 0],
    )
    merges = min(requested, 30)
    assignment = tome.bipartite_matching(arrays["keys"], merges, has_cls=True)
    assert torch.equal(assignment, arrays[f"r{requested}_new_index"][:, 1:].long() - 1)
    merged = merge_by_size(tokens, assignment, 60 - merges)
    torch.testing.assert_close(merged.x, arrays[f"r{requested}_tokens"], rtol=0, atol=1e-5)
    sizes = arrays[f"r{requested}_sizes"][:, 1:, 0]
    torch.testing.assert_close(merged.sizes, sizes, rtol=0, atol=1e-5)


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize("length", [7, 8])
def test_matching_by_a_naive_loop(length, has_cls):
    metric = torch.randn(2, length, 5, generator=torch.Generator().manual_seed(0))
    merges = 2
    assignment = tome.bipartite_matching(metric, merges, has_cls=has_cls)
    for image in range(2):
        cosine = torch.cosine_similarity(metric[image, :, None], metric[image], dim=-1)
        proposals = []
        for even in range(2 if has_cls else 0, length, 2):
            partner = max(range(1, length, 2), key=lambda odd, e=even: cosine[e, odd].item())
            proposals.append((cosine[even, partner].item(), even, partner))
        best = {even: partner for _, even, partner in sorted(proposals)[-merges:]}
        order = [even for even in range(0, length, 2) if even not in best]
        order += range(1, length, 2)
        expected = [order.index(best.get(token, token)) for token in range(length)]
        if has_cls:
            expected = [place - 1 for place in expected[1:]]
        assert assignment[image].tolist() == expected


@pytest.mark.parametrize(("budget", "points"), [(20, 19), (42, 42)])
def test_ats_picks(reference_modules, budget, points):
    attention, values = reference_modules["ats/attention"], reference_modules["ats/values"]
    mask = reference_modules["ats/mask"][:, 1:] == 1
    significance = (attention[:, :, 0, 1:] * values[:, :, 1:].norm(dim=-1)).sum(dim=1)
    quantiles = ats.sample_points(budget)
    assert len(quantiles) == points
    index, live = ats.pick(significance, mask, quantiles)
    ids, expected_live = (reference_modules[f"ats/K{budget}_{name}"] for name in ("ids", "mask"))
    assert torch.equal(live, expected_live[:, 1:] == 1)
    assert torch.equal((index + 1)[live], ids[:, 1:][live].long())


def test_ats_sample_points_that_rounding_lets_in():
    budgets = [budget for budget in range(2, 60) if len(ats.sample_points(budget)) == budget]
    assert budgets == [3, 7, 12, 14, 19, 27, 34, 35, 36, 39, 42, 47, 48, 51, *budgets[14:]]
    assert all(len(ats.sample_points(budget)) >= budget - 1 for budget in range(2, 60))


def test_density_peaks(reference_modules):
    x = reference_modules["dpcknn/tokens"]
    centres, assignment = dpcknn.density_peaks(x, 21, neighbours=5, noisy=False)
    assert torch.equal(centres, reference_modules["dpcknn/centers"].long())
    assert torch.equal(assignment, reference_modules["dpcknn/assign"].long())


@pytest.mark.parametrize("equal_weight", [False, True])
def test_density_peaks_are_averaged(reference_modules, reference_extras, equal_weight):
    stage = dpcknn.DPCKNN(make_spec(), equal_weight=equal_weight).eval()
    load_stage(stage, reference_extras, "dpcknn")
    x = reference_modules["dpcknn/tokens"]
    tokens = Tokens(x=torch.cat((x[:, :1], x), 1), num_prefix=1, num_patches=60, grid=(6, 10))
    expected = reference_modules[f"dpcknn/merged_{'equal' if equal_weight else 'scored'}"]
    torch.testing.assert_close(stage.before_block(tokens).patches, expected, rtol=0, atol=1e-5)


def test_density_ties_go_by_position():
    x = torch.zeros(1, 6, 4)
    centres, assignment = dpcknn.density_peaks(x, 3, neighbours=5, noisy=False)
    assert centres.tolist() == [[0, 1, 2]]
    assert assignment.tolist() == [[0, 1, 2, 0, 0, 0]]


def test_density_noise_only_breaks_ties(reference_modules):
    x = reference_modules["dpcknn/tokens"]
    quiet, noisy = (dpcknn.density_peaks(x, 21, neighbours=5, noisy=flag) for flag in (False, True))
    assert torch.equal(quiet[0], noisy[0])
    torch.manual_seed(0)
    corners = torch.eye(60)[None]  # all equally far from each other
    centres, _ = dpcknn.density_peaks(corners, 3, neighbours=5, noisy=True)
    assert centres.tolist() != [[0, 1, 2]]


def test_self_slimming(reference_modules, reference_extras):
    stage = SiT(make_spec())
    load_stage(stage, reference_extras, "sit")
    x = reference_modules["soft/tokens"]
    tokens = Tokens(x=torch.cat((x[:, :1], x), 1), num_prefix=1, num_patches=60, grid=(6, 10))
    weights = stage.weights(x)
    torch.testing.assert_close(weights, reference_modules["sit/weights"], rtol=0, atol=1e-5)
    out = stage.before_block(tokens).patches
    torch.testing.assert_close(out, reference_modules["sit/out"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, math.inf])
def test_distances_on_a_grid_that_is_not_square(order):
    distance = radial.centre_distances((3, 4), order).view(3, 4)
    for row, y in enumerate((-1.5, 0.0, 1.5)):
        for column, x in enumerate((-2.0, -2 / 3, 2 / 3, 2.0)):
            expected = {1: abs(x) + abs(y), 2: math.hypot(x, y), math.inf: max(abs(x), abs(y))}
            assert distance[row, column].item() == pytest.approx(expected[order], abs=1e-6)
