"""LLM upstreams: where each is, its credential, the headers that cross, what its errors mean."""

from gateway.providers.exchange import Provider
from gateway.providers.registry import Providers, mistakes

__all__ = ["Provider", "Providers", "mistakes"]
