"""The built-in demo upstream: a provider and four tools that need no network and no key.

They are reached over a real loopback socket, as anybody's upstream would be. Answers depend on the input
and on nothing else, so that what is tried out today reads the same tomorrow. `chat` lists the model's knobs.
"""

from gateway.demo.server import DemoServer

__all__ = ["DemoServer"]
