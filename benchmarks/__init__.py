"""What Turnqueue costs in time, memory and money, measured beside what it could be instead: `make bench`."""
