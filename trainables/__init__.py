"""One cell's training: data, recipe, losses, loop, evaluation; a thin Tune Trainable wraps it."""
