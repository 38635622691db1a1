"""A service of the tests' own, as small as one can be: the ledger and nothing else."""
