"""What Temporal needs beside the SDK, one file a concern. It knows dataclasses and workflow types, no orders.

Imported first by each program that needs packages: where one is missing, it says so instead of showing a traceback.
"""

import importlib.util
import sys

for _package in ("temporalio", "rich"):
    if importlib.util.find_spec(_package) is None:
        sys.exit(
            f"the package {_package} is missing here; install it once (make .venv), and in every terminal"
            " activate the environment: . .venv/bin/activate (if the folder was moved, remove .venv first)"
        )
