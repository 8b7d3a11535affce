"""The comparison of a task's CPU, inits and AWS calls with those of another commit: `make bench COMMIT=...`."""
