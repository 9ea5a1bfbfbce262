"""The Celery application and its thin task modules."""

import os

# before anything imports torch, which reads it then: threads that wait leave the cores to other workers
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
