"""The steps that methods are made of: one file per step, with its settings and what it does."""
