"""Single reduction steps against the study's own code, and against naive loops."""

import math

import pytest
import torch
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist

from reduction.matching import bipartite_matching
from reduction.methods import atc, ats, dpcknn, kmedoids, radial, sinkhorn
from reduction.methods.patchmerger import PatchMerger
from reduction.methods.random import Random
from reduction.methods.sinkhorn import Sinkhorn
from reduction.methods.sit import SiT
from reduction.plan import Merge, apply
from reduction.randomness import scramble
from reduction.schedule import Schedule
from reduction.stage import StageSpec
from reduction.tokens import Tokens, ranks


def make_spec(num_patches=60, target=21, dim=48):
    return StageSpec(
        index=0,
        schedule=Schedule(blocks=(0,), tokens=(target,)),
        grid=(1, num_patches),
        dim=dim,
        head_dim=16,
        depth=12,
        num_prefix=1,
        has_cls=True,
        num_classes=10,
    )


def make_tokens(x):
    return Tokens(x=torch.cat((x[:, :1], x), 1), num_prefix=1, num_patches=60, grid=(6, 10))


def reduced(stage, tokens):
    """The patch tokens after a stage that acts before its block."""
    return apply(stage.before_block(tokens), tokens, 0).patches


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
    matching = bipartite_matching(arrays["keys"][:, 1:], merges, num_prefix=1)
    assignment = matching.assignment(60)
    assert torch.equal(assignment, arrays[f"r{requested}_new_index"][:, 1:].long() - 1)
    merged = apply(Merge(assignment=assignment, count=60 - merges), tokens, 0)
    torch.testing.assert_close(merged.x, arrays[f"r{requested}_tokens"], rtol=0, atol=1e-5)
    sizes = arrays[f"r{requested}_sizes"][:, 1:, 0]
    torch.testing.assert_close(merged.sizes, sizes, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("length", [10, 11])
def test_matching_by_a_naive_loop(length, prefix):
    metric = torch.randn(2, length, 5, generator=torch.Generator().manual_seed(0))
    merges = 2
    matching = bipartite_matching(metric[:, prefix:], merges, num_prefix=prefix)
    assignment = matching.assignment(length - prefix)
    for image in range(2):
        cosine = torch.cosine_similarity(metric[image, :, None], metric[image], dim=-1)
        proposals = []
        evens, odds = ([i for i in range(prefix, length) if i % 2 == odd] for odd in (0, 1))
        for even in evens:
            partner = max(odds, key=lambda odd, e=even: cosine[e, odd].item())
            proposals.append((cosine[even, partner].item(), even, partner))
        best = {even: partner for _, even, partner in sorted(proposals)[-merges:]}
        order = [even for even in evens if even not in best] + odds
        expected = [order.index(best.get(token, token)) for token in range(prefix, length)]
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
    expected = reference_modules[f"dpcknn/merged_{'equal' if equal_weight else 'scored'}"]
    merged = reduced(stage, make_tokens(x))
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shift", [-1000.0, 0.0, 100.0, 1000.0])
def test_density_weights_of_any_size(shift):
    scores = torch.tensor([[1.0, 2.0, 0.5, -1.0, 3.0, 0.0]]) + shift
    assignment = torch.tensor([[0, 1, 0, 1, 0, 1]])
    shares = dpcknn.softmax_in_group(scores, assignment, 2)
    weights = scores.double().exp()
    total = torch.stack([weights[assignment == group].sum() for group in (0, 1)])
    expected = weights / (total[assignment] + 1e-6)  # overflows beyond exp(709)
    if shift == 1000.0:
        expected = torch.cat([scores[assignment == k].softmax(0) for k in (0, 1)])
        expected = expected[torch.tensor([0, 3, 1, 4, 2, 5])][None].double()
    torch.testing.assert_close(shares.double(), expected, rtol=1e-4, atol=0)


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


@pytest.mark.parametrize(
    ("method", "name"), [(SiT, "sit"), (PatchMerger, "patchmerger"), (Sinkhorn, "sinkhorn")]
)
def test_soft_merging(reference_modules, reference_extras, method, name):
    stage = method(make_spec()).eval()
    load_stage(stage, reference_extras, name)
    x = reference_modules["soft/tokens"]
    weights = stage.weights(stage.prepare(x))
    torch.testing.assert_close(weights, reference_modules[f"{name}/weights"], rtol=0, atol=1e-5)
    out = reduced(stage, make_tokens(x))
    torch.testing.assert_close(out, reference_modules[f"{name}/out"], rtol=0, atol=1e-5)


def test_patchmerger_scaled_by_the_channels(reference_modules, reference_extras):
    stage = PatchMerger(make_spec(), scaled=True)
    load_stage(stage, reference_extras, "patchmerger")
    x = stage.prepare(reference_modules["soft/tokens"])
    expected = (stage.queries @ x.mT / math.sqrt(48)).softmax(dim=-1)
    torch.testing.assert_close(stage.weights(x), expected)


def test_training_keeps_sinkhorns_centres_at_unit_length(reference_modules):
    stage = Sinkhorn(make_spec()).train()
    stage.centers.data *= 3
    stage.before_block(make_tokens(reference_modules["soft/tokens"]))
    torch.testing.assert_close(stage.centers.norm(dim=-1), torch.ones(21))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"eps": 0.0}, "eps is 0, but must be above 0"), ({"iters": 0}, "iters is 0, but must be at")],
)
def test_sinkhorn_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        Sinkhorn(make_spec(), **options)


@pytest.mark.parametrize("iters", [0, 1, 3])
def test_k_medoids(reference_modules, iters):
    arrays = {name: reference_modules[f"kmedoids/{name}"] for name in ("tokens", "weights")}
    distance, weights = torch.cdist(arrays["tokens"], arrays["tokens"]), arrays["weights"][..., 0]
    start = weights.argsort(dim=1, descending=True)[:, :21]
    medoids, assignment = kmedoids.k_medoids(distance, weights, start, iters=iters, cost="global")
    name = "kmedoids/centers" + ("" if iters == 3 else f"_after_{iters}_iterations")
    assert torch.equal(medoids, reference_modules[name].long())
    if iters == 3:
        assert torch.equal(assignment, reference_modules["kmedoids/assign"].long())


def test_k_medoids_of_equal_weight(reference_modules):
    x = reference_modules["kmedoids_eq/tokens"]
    distance = torch.cdist(x, x)
    first = int(reference_modules["kmedoids_eq/first_index"])
    start = kmedoids.farthest_start(distance, 21, first)
    assert torch.equal(start, reference_modules["kmedoids_eq/start_centers"].long())
    weights = torch.ones(2, 60)
    medoids, assignment = kmedoids.k_medoids(distance, weights, start, iters=3, cost="global")
    assert torch.equal(medoids, reference_modules["kmedoids_eq/centers"].long())
    assert torch.equal(assignment, reference_modules["kmedoids_eq/assign"].long())


def test_k_medoids_within_clusters_by_a_naive_loop():
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    distance, weights = torch.cdist(x, x), torch.arange(1.0, 13.0)
    medoids = [0, 1, 2, 3]
    for _ in range(3):
        clusters = [min(range(4), key=lambda k, i=i: distance[i, medoids[k]]) for i in range(12)]
        for k in range(4):
            members = [i for i in range(12) if clusters[i] == k]
            costs = {i: weights[i] * sum(distance[i, j] for j in members) for i in members}
            medoids[k] = min(costs, key=costs.get, default=medoids[k])
    start = torch.arange(4)[None]
    found, _ = kmedoids.k_medoids(distance[None], weights[None], start, iters=3, cost="within")
    assert found[0].tolist() == medoids


@pytest.mark.parametrize(("cost", "expected"), [("global", 0), ("within", 3)])
def test_an_empty_cluster(cost, expected):
    x = torch.tensor([[0.0], [1.0], [5.0], [5.0]])
    distance = torch.cdist(x, x)[None]
    start = torch.tensor([[2, 3]])  # the same place: the second cluster gets no token
    medoids, _ = kmedoids.k_medoids(distance, torch.ones(1, 4), start, iters=1, cost=cost)
    assert medoids[0, 1] == expected


@pytest.mark.parametrize("linkage", atc.LINKAGES)
def test_agglomeration_is_scipys(device, linkage):
    x = torch.randn(3, 30, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distance = atc.cosine_distances(x.to(device))
    for count in (1, 7, 29, 30):
        assignment = atc.agglomerate(distance, count, linkage)
        for image in range(3):
            tree = hierarchy.linkage(pdist(x[image].numpy(), "cosine"), linkage)
            labels = hierarchy.fcluster(tree, count, "maxclust")
            order = list(dict.fromkeys(labels))
            assert assignment[image].tolist() == [order.index(label) for label in labels]


def test_random_draws_depend_on_image_and_seed_alone():
    x = torch.zeros(4, 61, 48)
    stage = Random(make_spec()).eval()
    index = torch.tensor([5, 9, 5, 70_000])
    marked = torch.arange(61.0)[None, :, None].expand_as(x)
    tokens = Tokens(x=marked, num_prefix=1, num_patches=60, grid=(6, 10), image_index=index)
    drawn = reduced(stage, tokens)[..., 0]
    assert torch.equal(drawn[0], drawn[2])
    assert len({tuple(row.tolist()) for row in drawn}) == 3
    assert torch.equal(drawn, drawn.sort(dim=1).values)
    other = reduced(Random(make_spec(), seed=1).eval(), tokens)[..., 0]
    assert not torch.equal(drawn[0], other[0])


def test_random_draws_are_uniform():
    x = torch.arange(61.0)[None, :, None].expand(4000, -1, 48)
    tokens = Tokens(x=x, num_prefix=1, num_patches=60, grid=(6, 10), image_index=torch.arange(4000))
    for stage in (Random(make_spec()).eval(), Random(make_spec()).train()):
        torch.manual_seed(0)
        kept = reduced(stage, tokens)[..., 0].long() - 1
        shares = torch.bincount(kept.flatten(), minlength=60) / 4000
        # 5 standard deviations of the share of 4000 draws with probability 21 / 60.
        torch.testing.assert_close(shares, torch.full((60,), 0.35), rtol=0, atol=0.038)


def test_scramble_is_splitmix64():
    """The first outputs of the published generator from state 0."""
    golden = 0x9E3779B97F4A7C15
    states = [0, golden, 2 * golden % 2**64]
    signed = torch.tensor([s - 2**64 if s >= 2**63 else s for s in states])
    outputs = [value % 2**64 for value in scramble(signed).tolist()]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize("order", [1, 2, math.inf])
def test_distances_on_a_grid_that_is_not_square(order):
    distance = radial.centre_distances((3, 4), order).view(3, 4)
    for row, y in enumerate((-1.5, 0.0, 1.5)):
        for column, x in enumerate((-2.0, -2 / 3, 2 / 3, 2.0)):
            expected = {1: abs(x) + abs(y), 2: math.hypot(x, y), math.inf: max(abs(x), abs(y))}
            assert distance[row, column].item() == pytest.approx(expected[order], abs=1e-6)


@pytest.mark.parametrize(("eps", "iters"), [(1.0, 3), (0.05, 1), (0.05, 4)])
def test_a_plan_scaled_on_a_gpu_is_that_of_the_log_domain(eps, iters):
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.rand(2, 5, 12, generator=generator, dtype=torch.float64) - 1
    scaled, expected = (
        plan(scores / eps, iters) for plan in (sinkhorn.scaled_plan, sinkhorn.sinkhorn_plan)
    )
    torch.testing.assert_close(scaled, expected, rtol=1e-12, atol=0)


def test_ranks_are_the_places_in_an_order():
    order = torch.randn(3, 17, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    assert ranks(order).equal(order.argsort(dim=1))
