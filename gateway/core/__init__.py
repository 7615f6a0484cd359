"""The words everything else speaks: plain values, standard library only, no I/O but the clock and the sources."""
