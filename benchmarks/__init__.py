"""What the gateway costs: measured in the same run, on the same cores, beside a bare proxy. `make bench` runs it."""
