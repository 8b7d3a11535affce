"""What must be so before a module of the product is imported, whichever folder of tests is first to do it."""

import os

# It hooks itself into the botocore sessions that are made after it, and turnqueue.aws makes one when it is imported.
import moto.core.models  # noqa: F401

# Powertools reads them when turnqueue.telemetry is imported.
os.environ.update(
    POWERTOOLS_SERVICE_NAME="turnqueue", POWERTOOLS_METRICS_NAMESPACE="Turnqueue", POWERTOOLS_LOG_LEVEL="INFO"
)
