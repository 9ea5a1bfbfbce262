"""The running system: workers, queues, dead units, stuck work, throughput and metrics."""
