"""From a study file to the cells that are left to do, with estimates of their cost."""
