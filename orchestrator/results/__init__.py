"""From trained cells to tables and the report."""
