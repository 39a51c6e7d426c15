"""The benchmark of density peaks ranks as the method does, and tells what is merged."""

import json

import pytest
import torch

import reduction
from experiments.benchmarks import density_peaks
from experiments.benchmarks.density_peaks import HOST, Peaks, RankedPeaks
from reduction.methods import dpcknn
from reduction.tokens import largest
from trainables.models.host import build_host


@pytest.mark.parametrize("count", [1, 5, 11])
def test_the_product_ranks_as_the_method_does(count):
    patches = torch.randn(3, 12, 4, generator=torch.Generator().manual_seed(0))
    centres, _ = dpcknn.density_peaks(patches, count, neighbours=5, noisy=False)
    assert torch.equal(largest(Peaks.of(patches).score("product"), count), centres)


def test_a_row_for_each_ranking_and_keep_rate(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(density_peaks, "KEEP_RATES", (0.5,))
    density_peaks.main(["--images", "12", "--out", str(tmp_path)])
    _, rows = json.loads((tmp_path / "density_peaks.json").read_text()).values()
    assert [row["ranking"] for row in rows] == ["product", "density", "distance"]
    by_distance, by_density = (rows[place]["merged_that_show_the_digit"] for place in (2, 1))
    assert by_distance < by_density
    assert "median density" in capsys.readouterr().out


def test_equal_weights_and_the_products_ranking_are_the_method():
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    vit = build_host(HOST, num_classes=10, dataset="digits_scenes", image_size=64)
    ours = reduction.reduce(vit, RankedPeaks, keep_rate=0.5, ranking="product").eval()
    method = reduction.reduce(vit, "dpcknn", keep_rate=0.5, equal_weight=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), method(images), rtol=1e-4, atol=1e-4)
