"""The error that removed channels leave, for every width of every group, from samples without labels."""
