"""The store of a study: its records, who may write to it, and its size."""
