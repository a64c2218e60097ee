"""Reads files of weights: nothing in them is executed, unless the user trusts a pickle."""
