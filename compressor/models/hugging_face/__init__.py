"""Folders and networks of transformers."""
