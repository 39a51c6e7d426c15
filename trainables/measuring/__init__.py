"""Speed of cells' models, measured alone."""
