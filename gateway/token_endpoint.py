"""The token endpoint (RFC 8693): an agent hands on less than it has, to a child of its own.

It is an address like all others of the gateway's own: identified, decided, counted, and closed by a
deny rule with `kinds: [own]`. Only that the credential stands in the form, so the body is read first;
it is small, and nothing is done with it before the token in it is verified.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.core.call import Address, Exchange, Head
from gateway.core.errors import Refusal
from gateway.core.principal import Principal
from gateway.core.run import RunRef
from gateway.flights import Flight
from gateway.identity import Authority
from gateway.identity.delegation import answer, child
from gateway.identity.token_request import MAX_FORM, Asked, bad, check_headers, read_form
from gateway.runs import name_run
from gateway.world import World


class Granter(Authority, Protocol):
    """What the token endpoint asks of the process that signs."""

    async def grant(self, claims: bytes, child: str, run: RunRef | None) -> str:
        """Count the child in its run, if it is in one, and sign its claims (JSON).

        Raises `Refusal` (`run_limit`, `request_malformed`, `store_unavailable`).
        """
        ...


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A request for a child's token by a known parent, before anything is decided."""

    asked: Asked
    parent: Principal
    proven: str | None  # the thumbprint of the key that the request's DPoP proof was signed with

    @classmethod
    async def receive(cls, exchange: Exchange, address: Address, world: World, authority: Authority) -> TokenRequest:
        """Read the form, and identify by the token in it; raises `Refusal`."""
        head = exchange.head
        asked = read_form(head, await exchange.body(MAX_FORM))
        check_headers(head, address, asked.token)
        parent, proven = await world.identity.identify_parent(head, address, authority, asked.token)
        return cls(asked, parent, proven)

    async def grant(
        self, head: Head, address: Address, world: World, granter: Granter, flight: Flight
    ) -> Mapping[str, object]:
        """The child's token, as the endpoint answers.

        Raises `Refusal` where it would be more than the parent has, or for a run that is stopped.
        """
        run = self._run(head, address, world)
        if run is not None:
            flight.enter_run([run.key.id] if run.parent is None else [run.key.id, run.parent])
        wanted = child(
            self.parent,
            self.asked,
            own=world.identity.own,
            run=run,
            proven=self.proven,
            limits=world.runs.run_limits,
            now=world.clock.now(),
        )
        claims = json.dumps(wanted.claims, separators=(",", ":")).encode()
        return answer(wanted, await granter.grant(claims, wanted.subject, wanted.run), self.asked)

    def _run(self, head: Head, address: Address, world: World) -> RunRef | None:
        """The run that is handed on: the one that the call names, with `runs.source` and all.

        What a child is told to be in is its root's run. So a child cannot name one for its own children:
        any run of its root would be open to them.
        """
        run = name_run(self.parent, head, address, claim_only=world.runs.source == "claim")
        if run is not None and self.parent.depth and self.parent.run is None:
            raise bad("Gateway-Run", "the token names no run, and only its root could choose one; leave the header out")
        if run is None and any(name == "children" for name, _ in self.parent.limits):
            raise Refusal(
                "run_required", "the token limits the children of its run, so that one is needed: send Gateway-Run"
            )
        return run
