"""A simulated pool and miners that really hash: demo, tests, benchmark."""
