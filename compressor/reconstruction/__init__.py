"""Closed-form reconstruction: new values for the layers of a pruned model, from a few samples without labels."""
