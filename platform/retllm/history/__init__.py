"""Jobs as people see and control them: views, filters, attempts, export, cancel, retry, delete."""
