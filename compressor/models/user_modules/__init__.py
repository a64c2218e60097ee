"""A user's own networks: from a Python file, from memory, or from a pickle that is trusted."""
