"""Finds the architecture of a state dict by the names and shapes of its tensors."""
