"""The Ray that a study runs on."""
