"""Whole tables in one call, of what the study computes part by part in Ray tasks."""

from analysis.comparisons import KINDS, measure, rows
from analysis.correlations import correlation_parts, correlation_rows, correlations_of
from analysis.tables import described, map_pairs, map_rows, table
from analysis.token_depth import describe_tokens


def compare(a, b, comparison, kinds=KINDS):
    """Return table -> the rows that one pair of cells adds to it."""
    return rows(a.record, b.record, comparison, measure(a, b, kinds))


def tokens_table(cells):
    return described("tokens", [(cell.record, describe_tokens(cell)) for cell in cells])


def depth_maps_table(cells):
    return described("depth_maps", [(cell.record, describe_tokens(cell)) for cell in cells])


def heatmaps_table(depth_maps, records):
    return table("heatmaps", map_rows(map_pairs(depth_maps, records)))


def correlations_table(results, tables):
    parts = correlation_parts(results, tables)
    return correlations_of([row for name, pairs in parts for row in correlation_rows(name, pairs)])
