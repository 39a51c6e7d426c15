"""The ground: files, paths and URIs, retries, leases. Imports nothing else of this project."""
