"""The training phase: cells as the trials of one Tune experiment."""
