"""A fifth service, for measuring and breaking: the ledger and nothing else.

Benchmarks and chaos runs start it beside, or instead of, the others. No user of Millrace runs it.
"""
