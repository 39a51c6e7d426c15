"""Plans move everything that belongs to a token, against naive loops."""

import math
from dataclasses import replace

import pytest
import torch

from reduction.plan import NOTHING, Append, Keep, Merge, Mix, Plan, Rest, apply, shares_in_group
from reduction.tokens import Tokens
from reduction.trace import Learning, Recorder, ReductionTrace

COUNT = 6


@pytest.fixture
def tokens():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1 + COUNT, 4, generator=random)
    trace = ReductionTrace(stages=(0,))
    return Tokens(
        x=x,
        num_prefix=1,
        num_patches=COUNT,
        grid=(2, 3),
        sizes=torch.tensor([[1.0, 2, 1, 3, 1, 1]]).expand(2, -1),
        coordinates=torch.randn(2, COUNT, 2, generator=random),
        proportional=True,
        key_bias=torch.zeros(2, 1 + COUNT),
        recorder=Recorder(trace, x[:, 1:], weights=True),
    )


def finish(tokens):
    """The trace of a stage that has both patterns."""
    tokens.recorder.finish(0, ("kept", "groups"), tokens.live(), tokens.count)
    return tokens.recorder.trace


def test_nothing(tokens):
    assert apply(NOTHING, tokens, 0) is tokens
    trace = finish(tokens)
    assert trace.kept[0].tolist() == trace.groups[0].tolist() == [list(range(COUNT))] * 2


def test_keep(tokens):
    index = torch.tensor([[3, 0, 5], [1, 2, 4]])
    left = apply(Keep(index=index), tokens, 0)
    for image, rows in enumerate(index.tolist()):
        assert torch.equal(left.x[image], tokens.x[image, [0, *(row + 1 for row in rows)]])
        assert torch.equal(left.sizes[image], tokens.sizes[image, rows])
        assert torch.equal(left.coordinates[image], tokens.coordinates[image, rows])
    assert torch.equal(left.key_bias[:, 1:], left.sizes.log())
    assert not left.key_bias[:, 0].any()
    trace = finish(left)
    assert torch.equal(trace.kept[0], index)
    assert trace.assignment[0].tolist() == [[1, -1, -1, 0, -1, 2], [-1, 0, 1, -1, 2, -1]]
    assert torch.equal(trace.groups[0], trace.assignment[0])


def test_keep_fewer_in_some_images(tokens):
    index, mask = torch.tensor([[3, 0, 5], [1, 1, 1]]), torch.tensor([[1, 1, 1], [1, 0, 0]]) == 1
    left = apply(Keep(index=index, mask=mask), tokens, 0)
    assert torch.equal(left.mask, mask)
    assert left.key_bias[1].tolist() == [0, pytest.approx(math.log(2)), -math.inf, -math.inf]
    trace = finish(left)
    assert trace.kept[0].tolist() == [[3, 0, 5], [1, -1, -1]]
    assert trace.groups[0][1].tolist() == [-1, 0, -1, -1, -1, -1]
    again = apply(Keep(index=torch.tensor([[2, 0], [0, 1]])), left, 0)
    assert again.mask.tolist() == [[True, True], [True, False]]


def test_keep_and_fuse(tokens):
    fused = torch.tensor([[[0, 0.5, 0.2, 0, 0.1, 0]]]).expand(2, -1, -1)
    left = apply(Keep(index=torch.tensor([[3, 0, 5]] * 2), fused=fused), tokens, 0)
    torch.testing.assert_close(left.patches[:, 3:], fused @ tokens.patches)
    torch.testing.assert_close(left.coordinates[:, 3:], fused / 0.8 @ tokens.coordinates)
    assert left.sizes[:, 3].tolist() == [4.0, 4.0]  # 2 and 1 and 1
    assert finish(left).kept[0].tolist() == [[3, 0, 5, -1]] * 2


def test_keep_with_other_features_and_sizes(tokens):
    features, sizes = torch.zeros(2, 2, 4), torch.tensor([[1.5, 2.5]] * 2)
    plan = Keep(index=torch.tensor([[3, 0]] * 2), features=features, sizes=sizes, proportional=True)
    left = apply(plan, tokens, 0)
    assert torch.equal(left.patches, features)
    assert torch.equal(left.key_bias[:, 1:], sizes.log())


def test_merge_and_drop(tokens):
    assignment = torch.tensor([[0, 1, 0, -1, 1, 2], [2, -1, 1, 1, 0, 0]])
    left = apply(Merge(assignment=assignment, count=3, drops=True), tokens, 0)
    for image in range(2):
        for group in range(3):
            members = (assignment[image] == group).nonzero()[:, 0]
            weights = tokens.sizes[image, members]
            for merged, before in (
                (left.patches, tokens.patches),
                (left.coordinates, tokens.coordinates),
            ):
                mean = (weights[:, None] * before[image, members]).sum(dim=0) / weights.sum()
                torch.testing.assert_close(merged[image, group], mean)
            assert left.sizes[image, group] == weights.sum()
    assert torch.equal(left.key_bias[:, 1:], left.sizes.log())
    trace = finish(left)
    assert torch.equal(trace.groups[0], assignment)
    assert trace.kept[0].tolist() == [[-1] * 3] * 2


def test_merge_by_own_shares_and_sizes(tokens):
    assignment = torch.tensor([[0, 1, 0, 1, 1, 0]] * 2)
    weights = torch.tensor([[1.0, 2, 3, 4, 5, 6]] * 2)
    shares = shares_in_group(weights, assignment, 2)
    torch.testing.assert_close(shares[0], torch.tensor([0.1, 2 / 11, 0.3, 4 / 11, 5 / 11, 0.6]))
    sizes = torch.tensor([[0.5, 7.0]] * 2)
    left = apply(Merge(assignment=assignment, count=2, shares=shares, sizes=sizes), tokens, 0)
    expected = (tokens.patches[:, [0, 2, 5]] * torch.tensor([0.1, 0.3, 0.6])[:, None]).sum(dim=1)
    torch.testing.assert_close(left.patches[:, 0], expected)
    assert torch.equal(left.key_bias[:, 1:], sizes.log())


def test_merge_around_centres_without_sizes(tokens):
    centres = torch.tensor([[4, 1]] * 2)
    assignment = torch.tensor([[0, 1, 0, 1, 0, 1]] * 2)
    features = tokens.patches[:, [4, 1]]
    plan = Merge(assignment=assignment, count=2, features=features, centres=centres, sized=False)
    left = apply(plan, tokens, 0)
    assert left.sizes is None
    assert left.key_bias is None
    assert not left.proportional
    assert torch.equal(left.coordinates[0], tokens.coordinates[0, [4, 1]])
    assert torch.equal(finish(left).kept[0], centres)


def test_mix(tokens):
    weights = torch.rand(2, 3, COUNT, generator=torch.Generator().manual_seed(1))
    left = apply(Mix(weights=weights, source=2 * tokens.patches), tokens, 0)
    torch.testing.assert_close(left.patches, 2 * weights @ tokens.patches)
    shares = weights / weights.sum(dim=2, keepdim=True)
    torch.testing.assert_close(left.coordinates, shares @ tokens.coordinates)
    assert left.sizes is left.key_bias is None
    trace = finish(left)
    assert torch.equal(trace.weights[0], weights)
    assert torch.equal(trace.groups[0], weights.argmax(dim=1))


def test_rest(tokens):
    plan = Rest(index=torch.tensor([[3, 0], [5, 2]]))
    active = apply(plan, tokens, 0)
    changed = replace(active, x=active.x + 1)
    back = plan.put_back(tokens, changed)
    expected = tokens.x.clone()
    expected[:, 0] += 1
    expected[0, [4, 1]] += 1
    expected[1, [6, 3]] += 1
    assert torch.equal(back.x, expected)
    trace = finish(back)
    assert trace.kept[0].tolist() == [[3, 0], [5, 2]]
    assert trace.tokens[0].tolist() == [2, 2]
    assert trace.groups[0].tolist() == [list(range(COUNT))] * 2


def test_tokens_that_come_back(tokens):
    left = apply(Keep(index=torch.tensor([[3, 0, 5]] * 2)), tokens, 0)
    finish(left)
    plan = Append(
        features=tokens.patches[:, [1, 2]],
        origin=torch.tensor([[1, 2]] * 2),
        coordinates=tokens.coordinates[:, [1, 2]],
    )
    back = apply(plan, left, 0)
    assert torch.equal(back.patches, tokens.patches[:, [3, 0, 5, 1, 2]])
    assert torch.equal(back.coordinates, tokens.coordinates[:, [3, 0, 5, 1, 2]])
    assert back.sizes[0].tolist() == [3, 1, 1, 1, 1]
    trace = finish(back)
    assert trace.kept[0][0].tolist() == [3, 0, 5, 1, 2]
    assert trace.groups[0][0].tolist() == [1, 3, 4, 0, -1, 2]


def test_what_a_method_carries_and_records(tokens):
    graph = torch.ones(2, 3)
    left = apply(Plan(carried={"graph": graph}, learning=Learning(cut_loss=graph.sum())), tokens, 7)
    assert left.carried["graph"] is graph
    assert apply(NOTHING, left, 8).carried["graph"] is graph
    assert tokens.recorder.trace.learning[7].cut_loss == 6


def test_two_plans_of_one_stage_are_composed(tokens):
    left = apply(Keep(index=torch.tensor([[3, 0, 5, 1]] * 2)), tokens, 0)
    left = apply(Merge(assignment=torch.tensor([[0, 0, 1, 1]] * 2), count=2), left, 0)
    trace = finish(left)
    assert trace.assignment[0][0].tolist() == [0, 1, -1, 0, -1, 1]
    assert torch.equal(trace.groups[0], trace.assignment[0])
