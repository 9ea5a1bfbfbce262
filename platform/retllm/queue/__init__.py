"""The job core: claims, leases, attempts and ends units (design: jobs). It is independent of the kinds of job."""
