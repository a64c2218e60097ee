"""Checkpoints, networks and the trainer of ultralytics."""
