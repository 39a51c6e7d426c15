"""A cell: its identity, its recipe, its folder, and what follows a number that is not finite."""
