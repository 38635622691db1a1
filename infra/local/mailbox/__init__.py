"""The embedded stack's mailbox: catches all mail and receives webhooks, so that nothing leaves the machine.

A development tool on the loopback address. `python -m infra.local.mailbox --help` starts it.
"""
