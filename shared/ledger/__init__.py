"""The ledger: jobs, attempts, events, leases. PostgreSQL decides, Redis carries, Celery runs."""
