"""What is run: the full grid, the shipped study files, the demo's pretraining, benchmarks."""
