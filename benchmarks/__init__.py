"""Benchmarks: one script per question; each prints its command, the hardware, n and the spread."""
