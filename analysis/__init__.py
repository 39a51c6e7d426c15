"""What a study's arrays say: similarity of cells, global patterns, tables and the report."""
