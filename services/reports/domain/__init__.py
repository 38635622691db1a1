"""Pure rules of reports: definitions, what to compute for them, and how values read. No I/O, no clock."""
