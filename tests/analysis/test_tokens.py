import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.token_depth import cell_depth, depth_maps, distinct_labels, share_left, token_depth


def test_depth_is_the_first_block_that_drops_a_patch():
    kept = {3: np.array([[4, 0, 2], [1, 255, 255]]), 6: np.array([[2, 255], [255, 255]])}
    expected = [[6, 3, 12, 3, 6], [3, 6, 3, 3, 3]]
    assert token_depth(kept, num_patches=5, num_blocks=12).tolist() == expected


@given(st.integers(0, 10_000))
def test_depth_equals_python_sets(seed):
    random = np.random.default_rng(seed)
    kept = {block: random.integers(-1, 9, (4, random.integers(0, 9))) for block in (2, 7, 5)}
    depth = token_depth(kept, num_patches=8, num_blocks=11)
    for image, patch in np.ndindex(4, 8):
        dropped = [block for block in kept if patch not in set(kept[block][image])]
        assert depth[image, patch] == min([*dropped, 11])


def test_depth_equals_the_published_study(study_cells, study_arrays, study_numbers):
    checked = 0
    for name, numbers in study_numbers["token_statistics"].items():
        if "depth_mean" not in numbers:
            continue
        depth = cell_depth(study_cells[name])
        mean, std = depth_maps(depth, (14, 14))
        assert depth.mean() == pytest.approx(numbers["depth_mean"], abs=1e-9)
        assert depth.std() == pytest.approx(numbers["depth_std"], abs=1e-9)
        np.testing.assert_allclose(mean, study_arrays[f"{name}/depth_mean_map"], atol=1e-9)
        np.testing.assert_allclose(std, study_arrays[f"{name}/depth_std_map"], atol=1e-9)
        checked += 1
    assert checked > 30


def test_share_left_equals_the_published_study(study_cells, study_arrays, study_numbers):
    for name, numbers in study_numbers["token_statistics"].items():
        cell = study_cells[name]
        for position, stage in enumerate((3, 6, 9)):
            # The study counts the groups of the tokens that enter the stage.
            merged_only = cell.groups and not cell.kept
            assigned = study_arrays.get(f"{name}/stage{stage}/assign")
            left = distinct_labels(assigned) / 196 if merged_only else share_left(cell, stage)
            mean = numbers["remaining_fraction_mean"][position]
            std = numbers["remaining_fraction_std"][position]
            assert (left.mean(), left.std()) == pytest.approx((mean, std), abs=1e-9)


def test_share_left_of_groups_counts_those_that_are_not_empty(study_cells):
    cell = study_cells["im-tome-small-0.25"]
    assert (share_left(cell, 3) * 196 == 98).all()
    assert (share_left(cell, 9) * 196 == 52).all()


def test_merging_alone_has_no_depth(study_cells):
    assert cell_depth(study_cells["im-tome-small-0.25"]) is None
    assert (cell_depth(study_cells["im-deit-small"]) == 12).all()


def test_distinct_labels_equal_python_sets():
    labels = np.random.default_rng(0).integers(0, 9, (30, 12))
    assert distinct_labels(labels).tolist() == [len(set(row)) for row in labels.tolist()]
