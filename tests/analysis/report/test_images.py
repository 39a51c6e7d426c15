"""The section with tokens drawn over images: who is on it, and that patches lie where they do."""

import base64
import io
import json
import re
import zlib
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from PIL import Image

from analysis.overlays import DROPPED, HUES, KEPT
from analysis.report import render
from analysis.report.mosaic import Mosaic, MosaicRow, overlaid, picture_pixels
from analysis.samples import Sample, SampledCell, SampledImage
from reduction.painting import GREY, WHITE

GRID = (2, 4)
RULES = ("first", "disagreed", "divided")


def picture(place):
    """A picture of 8 x 16 pixels, each of its 2 x 4 patches in a grey of its own."""
    greys = np.arange(8, dtype=np.uint8).reshape(GRID) * 20 + place
    pixels = greys.repeat(4, axis=0).repeat(4, axis=1)[..., None].repeat(3, axis=2)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def sampled(record):
    overlay = {"merging": "00112233", "soft": "00001111"}.get(record.family, "++..+...")
    stages = {} if record.family == "baseline" else record.stages
    return SampledCell(
        cell_id=record.cell_id,
        predicted=((7,), (3,), (3,)),
        right=(False, True, True),
        overlays=dict.fromkeys(stages, (overlay,) * 3),
    )


@pytest.fixture(scope="module")
def records(report_records):
    done = [r for r in report_records if r.state == "done" and r.capacity == "tiny"]
    return [record for record in done if record.dataset == "digits"]


@pytest.fixture(scope="module")
def sample(records):
    cells = tuple(map(sampled, records))
    return Sample(
        inputs={cell.cell_id: "x" for cell in cells},
        keep_rate=0.25,
        images=48,
        grid=GRID,
        chosen=tuple(
            SampledImage(image=10 * place, rule=rule, labels=(3,), picture=picture(place))
            for place, rule in enumerate(RULES)
        ),
        class_names={3: "three <b>", 7: "seven"},
        cells=cells,
    )


@pytest.fixture(scope="module")
def page(report_records, sample):
    return render("s", report_records, {}, {}, [sample]).page


def panels_of(page):
    """Choices of the selects -> what the page's script draws."""
    packed = re.findall(
        r'<div class="overlays"[^>]*><script type="text/plain">(.*?)</script>', page
    )
    section = page.partition('<section id="images">')[2].partition("</section>")[0]
    keys = [json.loads(unescape(key)) for key in re.findall(r'data-key="(.*?)"', section)]
    return {
        " · ".join(key): json.loads(zlib.decompress(base64.b64decode(data)))
        for key, data in zip(keys, packed, strict=True)
    }


def test_every_image_is_shown_with_every_method_after_every_block(page, records, sample):
    panels = panels_of(page)
    assert list(panels) == ["digits · tiny · 0.25", "digits · tiny · 0.5"]
    for rate, panel in zip((0.25, 0.5), panels.values(), strict=True):
        expected = {r.method for r in records if r.keep_rate == rate}
        assert set(panel["methods"]) == expected
        assert len(expected) > 3
        assert panel["blocks"] == [3, 6, 9]
        assert [image["title"] for image in panel["images"]] == ["image 0", "image 10", "image 20"]
        for image in panel["images"]:
            shown = dict(zip(panel["methods"], image["overlays"], strict=True))
            expected = {"topk": "++..+...", "dpcknn": "00112233", "sit": "00001111"}
            known = expected.keys() & shown.keys()
            assert len(known) >= 2
            assert all(shown[method] == [expected[method]] * 3 for method in known)


def test_the_rate_at_which_images_were_chosen_is_shown_first(report_records, sample):
    for rate, other in (("0.25", "0.5"), ("0.5", "0.25")):
        chosen = sample.model_copy(update={"keep_rate": float(rate)})
        page = render("s", report_records, {}, {}, [chosen]).page
        section = page.partition('<section id="images">')[2].partition("</section>")[0]
        opened = re.findall(r'data-key="([^"]*)">', section)
        assert [json.loads(unescape(key))[-1] for key in opened] == [rate]
        assert f'<option value="{rate}" selected>' in section
        assert f'<option value="{other}">' in section


def test_methods_are_in_the_order_of_all_figures(page):
    for panel in panels_of(page).values():
        order = ["l2", "topk", "evit", "tome", "dpcknn", "sit"]
        assert panel["methods"] == [method for method in order if method in panel["methods"]]


def test_answers_are_named_and_marked_by_a_sign(page):
    first, second, _ = panels_of(page)["digits · tiny · 0.5"]["images"]
    assert set(first["answers"]) == {"✗ seven"}
    assert set(second["answers"]) == {"✓ three <b>"}
    assert second["label"] == "label: three <b>"
    assert first["plain"] == ["✗ seven (deit)"]


def test_a_picture_is_on_the_page_once_whatever_shows_it(page, sample):
    for chosen in sample.chosen:
        assert page.count(chosen.picture) == 1
    shared = json.loads(re.search(r'id="pictures">(.*?)</script>', page)[1])
    assert shared["hues"] == list(HUES)
    for panel in panels_of(page).values():
        shown = [shared["pictures"][image["picture"]] for image in panel["images"]]
        assert shown == [chosen.picture for chosen in sample.chosen]


def test_the_rules_are_stated_with_what_was_chosen_from(page):
    assert [i["rule"] for i in panels_of(page)["digits · tiny · 0.5"]["images"]] == [
        "First images", "Most disagreed about", "Right for some, wrong for others"
    ]  # fmt: skip
    assert "Chosen from all evaluation images: 48 (digits · tiny, at keep rate 0.25)." in page


def test_what_is_missing_is_said_in_a_line(report_records, sample):
    page = render("s", report_records, {}, {}).page
    assert "No images have been chosen yet: no cell with reduction is evaluated." in page
    bare = tuple(image.model_copy(update={"picture": None}) for image in sample.chosen)
    without = sample.model_copy(
        update={"note": "no <folder>", "chosen": bare, "class_names": {}, "keep_rate": 0.5}
    )
    page = render("s", report_records, {}, {}, [without]).page
    assert "digits · tiny has no pictures: no &lt;folder&gt;. To have them, type: " in page
    image = panels_of(page)["digits · tiny · 0.5"]["images"][0]
    assert (image["picture"], image["label"]) == (None, "label: class 3")


def test_cells_that_the_study_no_longer_has_are_left_out(report_records, sample):
    gone = next(r for r in report_records if r.cell_id in sample.inputs and r.method == "tome")
    left = [record for record in report_records if record.method != gone.method]
    page = render("s", left, {}, {}, [sample]).page
    assert all("tome" not in panel["methods"] for panel in panels_of(page).values())
    assert panels_of(render("s", [replace(gone, cell_id="new")], {}, {}, [sample]).page) == {}


def test_an_overlay_changes_just_the_pixels_of_its_patches():
    pixels = picture_pixels(picture(0), (40, 80))
    drawn = overlaid(pixels, f"{KEPT}{DROPPED}{KEPT}{KEPT}{KEPT}{KEPT}0{KEPT}", GRID)
    inside = [
        (row, column, drawn[20 * row : 20 * row + 19, 20 * column : 20 * column + 19])
        for row in range(2)
        for column in range(4)
    ]
    for row, column, patch in inside:
        before = pixels[20 * row : 20 * row + 19, 20 * column : 20 * column + 19].astype(float)
        expected = {
            (0, 1): before * 0.12 + np.array(GREY) * 0.88,
            (1, 2): before * 0.45 + np.array([0xE6, 0x9F, 0x00]) * 0.55,
        }.get((row, column), before)
        assert np.abs(patch - expected).max() <= 1, (row, column)
    white = (drawn == WHITE).all(axis=2)
    assert white[:20, 19].all()
    assert white[:20, 39].all()
    assert not white[:19, 59].any(), "patches that belong together have no border"
    assert white[19, 20:40].all()


def test_the_figure_holds_every_tile_in_its_place():
    rows = [
        MosaicRow(
            "image 1", picture(0), ["✓ 3", "✗ 7"], [[KEPT * 8, DROPPED * 8], ["0" * 8, None]]
        ),
        MosaicRow("image 2", None, ["✓ 3", "✗ 7"], [[KEPT * 8, KEPT * 8], [KEPT * 8, DROPPED * 8]]),
    ]
    files = Mosaic(GRID, ["topk", "tome"], [3, 6], rows).draw()
    pixels = np.asarray(Image.open(io.BytesIO(files["png"])).convert("RGB")).astype(int)
    tiles = [pixels[top : top + 56, left : left + 112]  # 28 pixels a patch.
             for top in (40, 104, 196, 260) for left in (0, 140, 260)]  # fmt: skip
    plain, kept, dropped, nothing, coloured, missing = tiles[:6]
    assert np.array_equal(plain, kept)
    assert plain[14::28, 14::28, 0].ravel() == pytest.approx(np.arange(8) * 20, abs=2)
    assert np.abs(dropped - (plain * 0.12 + 153 * 0.88)).max() <= 1
    assert np.ptp(coloured.mean(axis=(0, 1))) > 50
    assert (nothing[:, :100] == 255).all()
    assert (missing == 255).all()
    assert (tiles[6] == 153).all()
    text = files["svg"].decode()
    assert all(word in text for word in ("topk", "tome", "block 6", "image 2", "✓ 3", "✗ 7"))
