"""A study becomes cells, Tune trials and Ray tasks, and a store that is the truth."""
