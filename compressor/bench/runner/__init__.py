"""What runs on the device: sent there as one zip file, started by `bootstrap.py`, needs numpy and ONNX Runtime alone.

It has to run on what devices have, so it keeps to Python 3.8: bootstrap -> serve -> (a fresh process) block -> timing,
profile, machine. Nothing here imports the package around it.
"""

PROTOCOL = 1
