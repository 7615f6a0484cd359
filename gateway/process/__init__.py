"""Processes: one supervisor that owns what is shared, and the workers that serve the agents.

The supervisor owns the writing store, the registers, the metrics and admin listeners; its direct
children are the workers. It binds the agents' socket once and hands it down, so that connections
which wait to be accepted survive a worker's death. A dead worker is reaped, its recovery file
posted, its reservations given back, and another one started in its place.
"""
