"""The token endpoint without a network: forms in, tokens of children out, and who their bearer is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from multidict import CIMultiDict

from gateway.core.call import Address, Head
from gateway.core.errors import Refusal
from gateway.core.principal import Principal
from gateway.core.run import RunLimits
from gateway.identity.delegation import Wanted, answer, child
from gateway.identity.own_keys import OwnKeys
from gateway.identity.token_request import ACCESS_TOKEN, GRANT_TYPE, check_headers, read_form
from gateway.runs import name_run
from tests.identity.door import Alone, Door

TOKEN = Address("oauth", "token", "/oauth/token")
FORM = ("Content-Type", "application/x-www-form-urlencoded")


def request(*headers: tuple[str, str], query: str = "", certificate: bytes | None = None) -> Head:
    """The head of a request to the token endpoint."""
    carried: Any = CIMultiDict([FORM, *headers])  # multidict overloads what `core.call.Headers` says in one line
    return Head("POST", "/oauth/token", query, carried, "127.0.0.1", certificate)


def form(token: str, **changes: object) -> bytes:
    """A good form; a change to `...` leaves a parameter out, a list repeats it."""
    fields = {"grant_type": GRANT_TYPE, "subject_token": token, "subject_token_type": ACCESS_TOKEN, **changes}
    return urlencode({name: value for name, value in fields.items() if value is not ...}, doseq=True).encode()


class Desk:
    """Delegates at a door, with keys in `folder`."""

    def __init__(self, door: Door, folder: Path, limits: RunLimits | None = None) -> None:
        """`limits` are those of the configuration's runs."""
        self.door = door
        self.limits = limits or RunLimits(depth=4)
        self.keys = OwnKeys.open(folder / "keys", door.clock.time)
        self.authority = Alone()
        door.identity.adopt({"gateway": self.keys.jwks})

    def wants(self, token: str, *, head: Head | None = None, **changes: object) -> tuple[Wanted, dict[str, object]]:
        """What the child would be, and the endpoint's answer; raises `Refusal`."""
        head = head or request()
        asked = read_form(head, form(token, **changes))
        check_headers(head, TOKEN, asked.token)
        identity = self.door.identity
        parent, proven = asyncio.run(identity.identify_parent(head, TOKEN, self.authority, asked.token))
        wanted = child(
            parent,
            asked,
            own=identity.own,
            run=name_run(parent, head, TOKEN),
            proven=proven,
            limits=self.limits,
            now=self.door.clock.time,
        )
        return wanted, answer(wanted, self.keys.sign(wanted.claims), asked)

    def grants(self, token: str, *, head: Head | None = None, **changes: object) -> str:
        """A child's token; raises `Refusal`."""
        return str(self.wants(token, head=head, **changes)[1]["access_token"])

    def child(self, token: str, *, head: Head | None = None, **changes: object) -> Principal:
        """Who the bearer of the child's token is."""
        return self.door.admits(self.grants(token, head=head, **changes))

    def refuses(self, token: str, *, head: Head | None = None, **changes: object) -> Refusal:
        """The refusal of a form."""
        with pytest.raises(Refusal) as caught:
            self.wants(token, head=head, **changes)
        return caught.value

    def forged(self, token: str, **changes: object) -> str:
        """A token that the gateway's own key signed, with other claims than it ever signs; `...` leaves one out."""
        claims = {**self.wants(token, name="billing")[0].claims, **changes}
        return self.keys.sign({name: value for name, value in claims.items() if value is not ...})
