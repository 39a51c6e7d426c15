"""Writing an evaluation's artifacts."""

import io
import tracemalloc

import numpy as np
import pandas as pd

from orchestrator.store.evaluation_folder import EvaluationFolder


def test_memory_holds_no_copy_of_large_arrays(tmp_path):
    features = np.random.default_rng(0).bytes(48 * 2**20)  # Noise: it gets no smaller.
    arrays = {"features": {"cls_3": np.frombuffer(features, np.uint8).reshape(-1, 64)}}
    folder, table = EvaluationFolder(tmp_path), pd.DataFrame({"image": [0]})
    tracemalloc.start()
    folder.write({"accuracy": 50.0}, table, arrays)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80 * 2**20, "NumPy takes about 60 MB however large the arrays"
    with np.load(io.BytesIO(folder.files.read("features.npz"))) as written:
        assert written["cls_3"].tobytes() == features
