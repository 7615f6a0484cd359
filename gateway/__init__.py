"""Passgate: a reverse proxy between AI agents and what they use."""

__version__ = "0.1.0"
