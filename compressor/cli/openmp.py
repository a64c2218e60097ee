"""OpenMP's number of threads and waiting, which torch and numpy read from the environment when they are loaded.

The weights that a training gives depend on the number of threads, so the number follows from what the machine grants
(affinity, control group), never from its load. How threads wait for each other changes no result: it follows the load.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from compressor.bench.runner.system_info import usable_cpu_count, usable_cpus

# Iterations for which a thread spins at a barrier before it sleeps. libgomp's own 300,000 take 5 to 20 ms, which is
# longer than a time slice: beside other busy processes a training of small layers then runs at a ninth of the speed
# that it has with threads that sleep. A short spin still bridges the time between two operators.
SPINS, SPINS_ON_BUSY_MACHINE = 10_000, 1_000
BUSY = 0.75  # processes that want to run, for each usable CPU


def set_openmp_defaults(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what the user has not set. This has no effect on libraries that are loaded already.

    Args:
        environment: The variables of this process.
    """
    cpus = usable_cpu_count()
    if cpus < len(usable_cpus()):  # without a limit, the libraries count the cores of the affinity themselves
        environment.setdefault("OMP_NUM_THREADS", str(cpus))
    if "OMP_WAIT_POLICY" not in environment:
        busy = os.getloadavg()[0] >= BUSY * cpus
        environment.setdefault("GOMP_SPINCOUNT", str(SPINS_ON_BUSY_MACHINE if busy else SPINS))
