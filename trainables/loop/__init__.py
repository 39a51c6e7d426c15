"""The training loop of a cell, which knows no Ray."""
