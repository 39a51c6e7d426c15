"""Studies that leave the store as tables for others, and runs of others that come into it."""
