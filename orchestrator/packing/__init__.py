"""How many cells share a machine: what each one reserves."""
