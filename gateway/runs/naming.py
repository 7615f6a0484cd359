"""Which run a call belongs to: the token's claim, the URL, the header, else client headers."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from gateway.core.call import Address, Head
from gateway.core.errors import Refusal
from gateway.core.ids import RUN_ID
from gateway.core.principal import Principal
from gateway.core.run import RunKey, RunRef


def name_run(
    principal: Principal, head: Head, address: Address, *, from_headers: Sequence[str] = (), claim_only: bool = False
) -> RunRef | None:
    """The run that the call names, or `None`.

    Sources that disagree are refused, `run_conflict`: a call has one run. With `claim_only`
    (`runs.source: claim`) only the signed token may name it.
    """
    run = _agreed("run", "run", principal.run, address.run, _header(head, "gateway-run"))
    incarnation = _agreed(
        "incarnation", "inc", principal.incarnation, address.incarnation, _header(head, "gateway-incarnation")
    )
    if claim_only and run is not None and principal.run is None:
        raise Refusal("run_conflict", "only a token may name its run here (runs.source: claim); get one with it")
    source = "claim" if principal.run else "url" if address.run else "header"
    if run is None and from_headers and not claim_only:
        run, source = _client_header(head, from_headers), "client-header"
    if run is None:
        return None
    return RunRef(run_key(principal, run), incarnation, source, principal.parent_run, principal.limits)


def run_key(principal: Principal, run: str) -> RunKey:
    """The whole name of a run, as this caller means it: the one that a delegated token names is its root's."""
    root = principal.root
    return RunKey(*(root if root is not None and run == principal.run else principal.owner), run)


def _header(head: Head, name: str) -> str | None:
    values = head.headers.getall(name, [])
    if not values:
        return None
    if len(set(values)) > 1:
        raise Refusal("run_conflict", f"the header {name} was sent twice with different values; send it once")
    value = unquote(values[0])  # what is no UTF-8 becomes a character that no id has
    if not RUN_ID.fullmatch(value):
        raise Refusal(
            "request_malformed",
            f"the header {name} must match {RUN_ID.pattern}: letters, digits and . _ ~ : @ + = -, at most 128",
        )
    return value


def _agreed(what: str, claim: str, by_token: str | None, by_url: str | None, by_header: str | None) -> str | None:
    """The one value that is given, `None` without any; refuses two that differ. `claim` is what a token calls it."""
    if by_url is None and by_header is None:
        return by_token
    named = {
        f"the token's claim `{claim}`": by_token,
        "the URL": by_url,
        f"the header Gateway-{what.capitalize()}": by_header,
    }
    given = {source: value for source, value in named.items() if value is not None}
    if len(set(given.values())) > 1:
        sources = " and ".join(f"{source} ({value})" for source, value in given.items())
        raise Refusal("run_conflict", f"{sources} name different {what}s; a call has one {what}, so send one")
    return next(iter(given.values()), None)


def _client_header(head: Head, names: Sequence[str]) -> str | None:
    """A client's own session header, where the config trusts one: for grouping and limits only."""
    for name in names:
        value = head.headers.get(name)
        if value and RUN_ID.fullmatch(value):
            return value
    return None
