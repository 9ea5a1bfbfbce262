"""The life of a job: submit, claim, lease, finish, cancel, rescue (design: jobs)."""
