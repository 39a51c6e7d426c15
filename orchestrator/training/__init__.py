"""The training stage: cells as the trials of one Tune experiment."""
