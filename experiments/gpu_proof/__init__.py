"""What only a GPU can show, in one call; without a GPU the same in small, as a rehearsal."""
