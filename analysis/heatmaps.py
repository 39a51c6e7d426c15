"""Similarity of two heat maps, such as the token-depth maps of two cells.

A map is [rows, columns], non-negative. Unless said otherwise a map is first scaled to sum 1,
and logarithms have base 2, so that divergences are in bits. A metric that is not defined for the
given maps is NaN; `compare_maps` gives the reason.
"""

from functools import cache

import numpy as np
from scipy import stats

from analysis.aliases import Floats

METRICS = ("kl_ab", "kl_ba", "jsd", "jsd_paper", "pcc", "scc", "emd", "sim")


def compare_maps(a: np.ndarray, b: np.ndarray) -> dict[str, float | str | None]:
    """Compute every metric of two maps.

    Returns:
        The metrics of `METRICS`, and `note`: why some are NaN, or None.

    Raises:
        ValueError: The maps differ in shape, or a value is negative or not finite.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    if a.shape != b.shape:
        raise ValueError(f"maps have shapes {a.shape} and {b.shape}, but must have the same")
    if not all(np.isfinite(m).all() and (m >= 0).all() for m in (a, b)):
        raise ValueError("maps hold negative or non-finite values, but must be non-negative")
    return {
        "kl_ab": kl(b, a),
        "kl_ba": kl(a, b),
        "jsd": jsd(a, b),
        "jsd_paper": jsd_paper(a, b),
        "pcc": pcc(a, b),
        "scc": scc(a, b),
        "emd": emd(a, b),
        "sim": sim(a, b),
        "note": _note(a, b),
    }


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """Kullback-Leibler divergence of p from q, `sum p log2(p / q)`, in [0, inf].

    The table's `kl_ab` is `kl(b, a)`, the published study's order.
    """
    return _kl(_scaled(p), _scaled(q))


def jsd(a: np.ndarray, b: np.ndarray) -> float:
    """Jensen-Shannon divergence: mean of KL(a || m) and KL(b || m), m = (a + b) / 2; in [0, 1]."""
    a, b = _scaled(a), _scaled(b)
    middle = (a + b) / 2
    return (_kl(a, middle) + _kl(b, middle)) / 2


def jsd_paper(a: np.ndarray, b: np.ndarray) -> float:
    """Jensen-Shannon divergence as the published study ran it, in [0, inf].

    The arguments of KL are exchanged: the mean of KL(m || a) and KL(m || b).
    """
    a, b = _scaled(a), _scaled(b)
    middle = (a + b) / 2
    return (_kl(middle, a) + _kl(middle, b)) / 2


def pcc(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation over the cells, in [-1, 1]; NaN where a map is constant."""
    return _correlation(a.ravel(), b.ravel())


def scc(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman rank correlation over the cells, in [-1, 1]; NaN where a map is constant."""
    return _correlation(stats.rankdata(a), stats.rankdata(b))


def emd(a: np.ndarray, b: np.ndarray) -> float:
    """Earth mover's distance: the least mean way, in patches, that turns a into b.

    Exact optimal transport with the Euclidean distance between cells; in [0, map diagonal].
    """
    import ot  # Imports torch where that is installed: seconds that most users of this do not need.

    p, q = _scaled(a).ravel(), _scaled(b).ravel()
    if np.isnan(p).any() or np.isnan(q).any():
        return np.nan
    return float(ot.emd2(p, q, _distances(*a.shape), numItermax=1_000_000))


def sim(a: np.ndarray, b: np.ndarray) -> float:
    """Histogram intersection of the maps scaled to [0, 1] and then to sum 1; in [0, 1]."""
    return float(np.minimum(_scaled(a - a.min()), _scaled(b - b.min())).sum())


def _scaled(values: np.ndarray) -> Floats:
    total = values.sum()
    return values / total if total > 0 else np.full(values.shape, np.nan)


def _kl(p: Floats, q: Floats) -> float:
    if np.isnan(p).any() or np.isnan(q).any():
        return np.nan
    live = p > 0
    if (q[live] == 0).any():
        return np.inf
    return float((p[live] * np.log2(p[live] / q[live])).sum())


def _correlation(a: Floats, b: Floats) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    return float(stats.pearsonr(a, b).statistic)


@cache
def _distances(rows: int, columns: int) -> Floats:
    """Euclidean distances between the cells of a grid, [rows * columns, rows * columns]."""
    cells = np.argwhere(np.ones((rows, columns), dtype=np.bool_)).astype(np.float64)
    return np.linalg.norm(cells[:, None] - cells[None], axis=-1)


def _note(a: Floats, b: Floats) -> str | None:
    constant = [name for name, values in (("A", a), ("B", b)) if np.ptp(values) == 0]
    return f"constant map {' and '.join(constant)}" if constant else None
