"""From what a user names to a `core.LoadedModel`: reading files safely, building and recognizing architectures."""
