"""The Stratum V1 protocol and its mathematics. No I/O, no clock, no logging."""
