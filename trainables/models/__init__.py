"""Hosts, teachers and the passes through them."""
