"""Fixtures' parts and assertions for those who add a service. Imported by tests alone."""
