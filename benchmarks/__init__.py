"""Benchmarks of Turnqueue's time, memory and cost, each beside an alternative: `make bench`."""
