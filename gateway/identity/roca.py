"""RSA keys with the ROCA flaw (CVE-2017-15361): from the public key anybody can work out the private one.

The flawed generator, in smart cards and TPMs, made primes that leave a power of 65537 as their remainder
by each small prime; so does their product. Of other keys one in two hundred million does so by chance.
"""

from __future__ import annotations

from typing import Final

_SMALL_PRIMES: Final = tuple(n for n in range(3, 168) if all(n % divisor for divisor in range(2, n)))
_POWERS: Final = {prime: frozenset(pow(65537, power, prime) for power in range(prime - 1)) for prime in _SMALL_PRIMES}


def has_roca_flaw(modulus: int) -> bool:
    """Whether an RSA modulus is one that the flawed generator makes."""
    return all(modulus % prime in powers for prime, powers in _POWERS.items())
