"""A federation's own processes on one machine: what is started from a kit, and how it is kept running."""
