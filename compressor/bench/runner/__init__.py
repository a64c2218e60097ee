"""The program that runs on the device. It is sent as a zip file, started by `bootstrap.py`, and needs only numpy and
ONNX Runtime.

Devices have old Pythons, so the code keeps to Python 3.8, and nothing here imports the package around it.
`server` answers requests and starts a new process (`worker`) for each job: `timing`, `profile` or `system_info`.
"""

PROTOCOL = 1
