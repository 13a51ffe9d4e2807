"""Bytes in and out. Knows no Stratum."""
