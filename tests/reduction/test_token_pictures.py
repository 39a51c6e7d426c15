"""Pictures of reduced tokens, pixel by pixel against what the trace says."""

import numpy as np
import pytest
import timm
import torch

import reduction
from reduction.painting import GREY, WHITE
from reduction.token_pictures import GAP

SIDE = 16
GRID = (2, 3)


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return timm.models.VisionTransformer(
        img_size=(32, 48), patch_size=16, embed_dim=24, depth=4, num_heads=3, num_classes=2
    ).eval()


@pytest.fixture(scope="module")
def photos():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, 32, 48), generator=generator, dtype=torch.uint8)


def trace_of(vit, method, photos, **schedule):
    model = reduction.reduce(vit, method, **schedule)
    return model.forward_with_trace(photos / 255 - 0.5)[1]


def parts_of(picture, count):
    """The image and what each stage left, as arrays."""
    pixels = np.asarray(picture)
    assert pixels.shape == (32, count * 48 + (count - 1) * GAP, 3)
    return [pixels[:, start : start + 48] for start in range(0, pixels.shape[1], 48 + GAP)]


def inside(pixels, patch):
    """Pixels of a patch, without its right and lower edge, where lines are."""
    top, left = patch // GRID[1] * SIDE, patch % GRID[1] * SIDE
    return pixels[top : top + SIDE - 1, left : left + SIDE - 1]


def test_kept_patches_are_as_they_were_and_others_grey(vit, photos):
    trace = trace_of(vit, "topk", photos, tokens=[4, 2], reduction_loc=(1, 3))
    for row, picture in enumerate(reduction.draw(photos, trace)):
        plain, *stages = parts_of(picture, 3)
        assert np.array_equal(plain, photos[row].permute(1, 2, 0))
        for block, drawn in zip((1, 3), stages, strict=True):
            kept = trace.kept[block][row].tolist()
            for patch in range(6):
                grey = (inside(plain, patch) * 0.12 + np.array(GREY) * 0.88).round()
                expected = inside(plain, patch) if patch in kept else grey
                assert np.array_equal(inside(drawn, patch), expected)


def test_groups_have_their_mean_colour_and_lines_around_them(vit, photos):
    trace = trace_of(vit, "tome", photos, tokens=[3], reduction_loc=(1,))
    for row, picture in enumerate(reduction.draw(photos, trace)):
        plain, drawn = parts_of(picture, 2)
        groups = trace.groups[1][row].tolist()
        tiles = [plain[y : y + SIDE, x : x + SIDE] for y in (0, 16) for x in (0, 16, 32)]
        for patch, group in enumerate(groups):
            members = [tile for tile, other in zip(tiles, groups, strict=True) if other == group]
            assert (inside(drawn, patch) == np.mean(members, axis=(0, 1, 2)).round()).all()
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            changes = groups[y * 3 + x] != groups[y * 3 + x + 1]
            edge = drawn[y * SIDE : y * SIDE + SIDE - 1, (x + 1) * SIDE - 1]
            assert (edge == WHITE).all() == changes


@pytest.mark.parametrize("method", reduction.METHODS)
def test_every_method_has_a_picture_of_every_stage(vit, photos, method):
    model = reduction.reduce(
        vit, method, keep_rate=1.0 if method == "deit" else 0.7, reduction_loc=(1, 2)
    )
    _, trace = model.forward_with_trace(photos / 255 - 0.5)
    pictures = reduction.draw(photos, trace)
    assert len(pictures) == 2
    parts_of(pictures[0], 1 if method == "deit" else 1 + len(model.stages))


def test_a_dropped_patch_is_grey_where_others_merge(vit, photos):
    trace = trace_of(vit, "topk", photos, tokens=[4], reduction_loc=(1,))
    trace.groups[1] = torch.tensor([[0, 0, 1, 1, -1, -1]] * 2)
    plain, drawn = parts_of(reduction.draw(photos, trace)[0], 2)
    grey = (inside(plain, 5) * 0.12 + np.array(GREY) * 0.88).round()
    assert np.array_equal(inside(drawn, 5), grey)


def test_small_grey_images_are_enlarged_and_span_black_to_white():
    torch.manual_seed(0)
    vit = timm.models.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=24, depth=1, num_heads=3, in_chans=1
    ).eval()
    images = torch.linspace(-3, 5, 64).view(1, 1, 8, 8)
    _, trace = reduction.reduce(vit, "deit", reduction_loc=(0,)).forward_with_trace(images)
    (picture,) = reduction.draw(images, trace)
    expected = ((images[0, 0] + 3) / 8 * 255).round().repeat_interleave(4, 0)
    assert np.array_equal(np.asarray(picture)[..., 0], expected.repeat_interleave(4, 1))


def test_what_does_not_fit_is_said(vit, photos):
    trace = trace_of(vit, "topk", photos, keep_rate=0.5, reduction_loc=(1,))
    with pytest.raises(ValueError, match=r"images are \[2, 4, 8, 8\], but must be \[B, 1 or 3"):
        reduction.draw(torch.zeros(2, 4, 8, 8), trace)
    with pytest.raises(ValueError, match="there are 1 images, but must be the 2 of the trace"):
        reduction.draw(photos[:1], trace)
    dropping = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, patch_drop_rate=0.5)
    _, trace = reduction.reduce(dropping, "deit", reduction_loc=(1,)).forward_with_trace(
        torch.zeros(2, 3, 64, 64)
    )
    with pytest.raises(ValueError, match="host has patch dropout, but must keep all patches"):
        reduction.draw(torch.zeros(2, 3, 64, 64), trace)
