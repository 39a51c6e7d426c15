"""A cell as a Ray Tune trial: the thin Trainable and the processes that work for it."""
