"""Datasets and pretrained weights that a study needs, looked at before it begins."""
