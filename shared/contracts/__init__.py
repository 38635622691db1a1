"""What services say to each other: events, their envelope and the catalog. A leaf: imports nothing of ours."""
