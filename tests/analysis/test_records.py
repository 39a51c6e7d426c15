from io import BytesIO

import numpy as np

from analysis.records import CellArtifacts, CellRecord, read_arrays

RECORD = CellRecord(
    cell_id="c", dataset="d", method="m", family="f", capacity="tiny",
    keep_rate=0.5, stages=(3, 10), seed=0,
)  # fmt: skip


def test_arrays_are_read_back_by_block(tmp_path):
    kept = {block: np.full((2, 3), block, dtype=np.uint8) for block in (10, 3)}
    patterns = {"image": np.array([7, 8]), "grid": np.array([4, 6]), "depth": np.array(12)}
    patterns |= {f"kept_{block}": array for block, array in kept.items()}
    np.savez(tmp_path / "patterns.npz", **patterns)
    features = BytesIO()
    np.savez(features, cls_11=np.ones((2, 5), dtype=np.float32))
    features.seek(0)
    arrays = read_arrays(tmp_path / "patterns.npz"), read_arrays(features)
    cell = CellArtifacts(RECORD, *arrays)
    assert cell.record is RECORD
    assert cell.images.tolist() == [7, 8]
    assert (cell.grid, cell.num_patches, cell.depth) == ((4, 6), 24, 12)
    assert list(cell.kept) == [3, 10]
    assert (cell.kept[10] == kept[10]).all()
    assert cell.kept[10].dtype == np.uint8
    assert cell.groups == {}
    assert cell.tokens == {}
    assert cell.cls[11].shape == (2, 5)
