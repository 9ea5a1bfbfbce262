"""The job core: units are claimed, leased, attempted and ended (design: jobs). It knows no kind of job."""
