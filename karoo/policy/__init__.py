"""Decisions. No I/O, no clock, no logging: `now` is an argument."""
