"""The words everything else speaks: plain values, no I/O but the clock and the sources; of libraries msgspec alone."""
