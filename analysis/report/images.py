"""The report's section that shows on a few images what each method did to the tokens."""

import json
import zlib
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from analysis.aliases import Trace
from analysis.image_choice import Rule
from analysis.overlays import HUES
from analysis.records import cells_at_rate, rate_in_words
from analysis.report import markup
from analysis.report.embeddings import without_labels
from analysis.report.groups import AT_RATE, Key, by_setting, rates_of, title
from analysis.report.mosaic import Mosaic, MosaicRow
from analysis.report.report_context import ReportContext
from analysis.report.style import BASELINE, ordered_methods
from analysis.samples import Sample, SampledCell

NOTHING_CHOSEN = "No images have been chosen yet: no cell with reduction is evaluated."
HOW_TO_SHOW = "To have them, type: tokensweep report STUDY --data DIR (folder of the datasets)."
RULES: dict[Rule, str] = {
    "first": "First images",
    "disagreed": "Most disagreed about",
    "divided": "Right for some, wrong for others",
}
RIGHT, WRONG = "✓", "✗"
CAPTION = (
    "What each method did to the patches of an image, methods across and reduction blocks down. "
    "Pruning: grey patches are dropped. Merging: a colour is a group, lines are its borders; up to "
    f"{len(HUES)} groups have a colour each, with more a colour only tells a group from those it "
    f"touches. {RIGHT} marks a right answer and {WRONG} a wrong one; where an image has k labels, "
    "the k likeliest classes have to be just these. Up to three images are chosen by each rule, "
    "none twice: the first ones; those with the lowest mean similarity over all pairs of methods "
    "that look at the image and all blocks (IoU of kept patches, V-measure of groups); and those "
    "that some cells get right and others wrong, the evenest split first. Ties go to the first "
    "image. The same images are shown at all keep rates, for one seed."
)


class Panel(NamedTuple):
    """Cells side by side: those of a setting that meet at a keep rate."""

    sample: Sample
    columns: list[tuple[str, SampledCell]]
    """Cells with reduction, each with its method, in the order of the methods."""
    baselines: list[tuple[str, SampledCell]]
    """Cells without."""
    labelled: bool
    """Whether images have labels, and cells answers."""

    def answer(self, cell: SampledCell, place: int) -> str:
        """Say what a cell takes a chosen image for, and whether that is right; of labels only."""
        if not self.labelled:
            return ""
        mark = RIGHT if cell.right[place] else WRONG
        return f"{mark} {self.names(cell.predicted[place])}"

    def names(self, classes: Sequence[int]) -> str:
        """Name classes, of which an image of several labels may have none."""
        known = self.sample.class_names
        return ", ".join(known.get(c, f"class {c}") for c in classes) or "none"


def images(findings: ReportContext) -> str:
    """Draw kept patches and groups over the chosen images."""
    samples = dict(_samples(findings))
    if not samples:
        return markup.empty(NOTHING_CHOSEN)
    pictures: dict[str, int] = {}
    views = {}
    for setting, sample in samples.items():
        for rate, panel in _panels(findings, sample):
            words = rate_in_words(findings.records, rate)
            views[(*setting, words)] = _view(panel, pictures)
            if rate == sample.keep_rate:
                name = f"tokens on images {title(setting)}"
                findings.figures.add(name, _mosaic(panel))
    shared = json.dumps({"hues": HUES, "pictures": list(pictures)})
    return (
        "".join(
            markup.empty(f"{title(setting)} has no pictures: {sample.note}. {HOW_TO_SHOW}")
            for setting, sample in samples.items()
            if sample.note
        )
        + f'<script type="application/json" id="pictures">{shared}</script>'
        + markup.figure(
            markup.views(views, AT_RATE, _opened(findings, samples, views)),
            f"{CAPTION} {_chosen_from(samples)}",
        )
    )


def _opened(
    findings: ReportContext, samples: dict[Key, Sample], views: Mapping[Key, str]
) -> Key | None:
    """Return the view at the keep rate at which most methods of the first setting meet."""
    setting, sample = next(iter(samples.items()))
    key = (*setting, rate_in_words(findings.records, sample.keep_rate))
    return key if key in views else None


def _samples(findings: ReportContext) -> Iterator[tuple[Key, Sample]]:
    """Yield each setting that has a sample, with it."""
    for setting, cells in by_setting(findings.records).items():
        ids = {record.cell_id for record in cells}
        for sample in findings.samples:
            if not ids.isdisjoint(sample.inputs):
                yield setting, sample


def _panels(findings: ReportContext, sample: Sample) -> Iterator[tuple[float, Panel]]:
    """Yield each keep rate of a sample, ascending, with the cells that meet there."""
    sampled = {cell.cell_id: cell for cell in sample.cells}
    records = [record for record in findings.records if record.cell_id in sampled]
    order = ordered_methods(records)
    reduced = [record for record in records if record.family != BASELINE]
    for rate in rates_of(reduced):
        meeting = sorted(cells_at_rate(records, rate), key=lambda r: order.index(r.method))
        sides: dict[bool, list[tuple[str, SampledCell]]] = {True: [], False: []}
        for record in meeting:
            sides[record.family == BASELINE].append((record.method, sampled[record.cell_id]))
        yield rate, Panel(sample, sides[False], sides[True], labelled=not without_labels(records))


def _view(panel: Panel, pictures: dict[str, int]) -> str:
    """Return a panel for the page's script to draw; new pictures are added, with their place."""
    packed = b64encode(zlib.compress(json.dumps(_description(panel, pictures)).encode(), 9))
    return (
        '<div class="overlays" tabindex="0" role="region" aria-label="Chosen images">'
        f'<script type="text/plain">{packed.decode()}</script></div>'
    )


def _description(panel: Panel, pictures: dict[str, int]) -> Trace:
    sample = panel.sample
    shown = [
        {
            "rule": RULES[chosen.rule],
            "title": f"image {chosen.image}",
            "label": f"label: {panel.names(chosen.labels)}" if panel.labelled else "",
            "picture": chosen.picture and pictures.setdefault(chosen.picture, len(pictures)),
            "plain": [
                f"{panel.answer(cell, place)} ({method})"
                for method, cell in (panel.baselines if panel.labelled else ())
            ],
            "answers": [panel.answer(cell, place) for _, cell in panel.columns],
            "overlays": [
                [cell.overlays[b][place] if b in cell.overlays else None for b in _blocks(panel)]
                for _, cell in panel.columns
            ],
        }
        for place, chosen in enumerate(sample.chosen)
    ]
    methods = [method for method, _ in panel.columns]
    return {"grid": sample.grid, "blocks": _blocks(panel), "methods": methods, "images": shown}


def _blocks(panel: Panel) -> list[int]:
    return sorted({block for _, cell in panel.columns for block in cell.overlays})


def _mosaic(panel: Panel) -> Mosaic:
    """Return the same as a figure."""
    rows = [
        MosaicRow(
            title=f"image {chosen.image}"
            + (f": {panel.names(chosen.labels)}" if panel.labelled else ""),
            picture=chosen.picture,
            answers=[panel.answer(cell, place) for _, cell in panel.columns],
            overlays=[
                [
                    cell.overlays[b][place] if b in cell.overlays else None
                    for _, cell in panel.columns
                ]
                for b in _blocks(panel)
            ],
        )
        for place, chosen in enumerate(panel.sample.chosen)
    ]
    return Mosaic(panel.sample.grid, [method for method, _ in panel.columns], _blocks(panel), rows)


def _chosen_from(samples: dict[Key, Sample]) -> str:
    chosen = (
        f"{sample.images} ({title(setting)}, at keep rate {sample.keep_rate:.4g})"
        for setting, sample in samples.items()
    )
    return f"Chosen from all evaluation images: {'; '.join(chosen)}."
