"""Curves of the cells for other tools: TensorBoard events, CSV files and W&B runs.

All of them are views of the store: what a tracker missed, because a launch was killed or because
it was not there yet, it takes from the cell's log as soon as that cell goes on.
"""
