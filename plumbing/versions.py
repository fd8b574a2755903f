"""Which version of the code a worker serves: https://docs.temporal.io/worker-versioning."""

from __future__ import annotations

import argparse
import re

from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import WorkerDeploymentConfig

# A version is written DEPLOYMENT.BUILD: so no dot in the first.
NAMES = {"deployment": r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "build_id": r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"}


def add_version_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--deployment` and `--build-id`."""
    parser.add_argument("--deployment", metavar="NAME", help="Worker Deployment to join (default: none)")
    parser.add_argument("--build-id", metavar="ID", help="the version of this code in the deployment")


def read_version(arguments: argparse.Namespace) -> WorkerDeploymentConfig | None:
    """Return how a worker joins its deployment, if any. A workflow stays with the version that began it (pinned).

    Raises:
        ValueError: if one of the two options is missing, or cannot be a name; the message says which.
    """
    if arguments.deployment is None and arguments.build_id is None:
        return None
    for name, rule in NAMES.items():
        value = getattr(arguments, name)
        if value is None or not re.fullmatch(rule, value):
            problem = "is missing: a version needs both" if value is None else f"must match {rule}, not {value!r}"
            raise ValueError(f"--{name.replace('_', '-')} {problem}")
    version = WorkerDeploymentVersion(arguments.deployment, arguments.build_id)
    return WorkerDeploymentConfig(
        version, use_worker_versioning=True, default_versioning_behavior=VersioningBehavior.PINNED
    )
