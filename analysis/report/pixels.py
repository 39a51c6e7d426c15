"""Small heat maps as images inside the page."""

import io
from base64 import b64encode

import numpy as np
from PIL import Image

CIVIDIS = np.array(
    [
        (0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 93, 109), (112, 113, 115),
        (138, 134, 120), (165, 156, 116), (195, 179, 105), (225, 204, 85), (254, 232, 56),
    ],
    dtype=np.float64,
)  # fmt: skip
"""Anchors of the colour map cividis (Nunez et al., 2018), made for any colour vision."""

CSS_GRADIENT = ", ".join(f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in CIVIDIS)


def heat_map_uri(values: np.ndarray, low: float, high: float) -> str:
    """Return a map [rows, columns] as a PNG data URI, a pixel a cell, from `low` to `high`."""
    places = (np.clip(values, low, high) - low) / (high - low) * (len(CIVIDIS) - 1)
    steps = np.arange(len(CIVIDIS))
    colours = [np.interp(places, steps, CIVIDIS[:, channel]) for channel in range(3)]
    pixels = np.stack(colours, axis=-1).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()
