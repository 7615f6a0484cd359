"""Which run a call belongs to (wire §3): the token's claim, the URL, the header, else client headers."""

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
    header = _header(head, "gateway-run")
    named = {"the token's claim `run`": principal.run, "the URL": address.run, "the header Gateway-Run": header}
    run = _agreed(named, "run")
    incarnation = _agreed(
        {
            "the token's claim `inc`": principal.incarnation,
            "the URL": address.incarnation,
            "the header Gateway-Incarnation": _header(head, "gateway-incarnation"),
        },
        "incarnation",
    )
    if claim_only and run is not None and principal.run is None:
        raise Refusal("run_conflict", "here only a token may name its run (runs.source: claim). Mint one with --run.")
    source = "claim" if principal.run else "url" if address.run else "header"
    if run is None and from_headers and not claim_only:
        run, source = _client_header(head, from_headers), "client-header"
    if run is None:
        return None
    return RunRef(RunKey(*principal.owner, run), incarnation, source, principal.parent_run, principal.limits)


def _header(head: Head, name: str) -> str | None:
    values = head.headers.getall(name, [])
    if not values:
        return None
    if len(set(values)) > 1:
        raise Refusal("run_conflict", f"the header {name} was sent twice with different values; send it once.")
    value = unquote(values[0], errors="strict")
    if not RUN_ID.fullmatch(value):
        raise Refusal(
            "request_malformed",
            f"the header {name} must match {RUN_ID.pattern}: letters, digits and . _ ~ : @ + = -, at most 128.",
        )
    return value


def _agreed(named: dict[str, str | None], what: str) -> str | None:
    given = {source: value for source, value in named.items() if value is not None}
    if len(set(given.values())) > 1:
        sources = " and ".join(f"{source} ({value})" for source, value in given.items())
        raise Refusal("run_conflict", f"{sources} name different {what}s; a call has one {what}.")
    return next(iter(given.values()), None)


def _client_header(head: Head, names: Sequence[str]) -> str | None:
    """A client's own session header, where the config trusts one: for grouping and limits only."""
    for name in names:
        value = head.headers.get(name)
        if value and RUN_ID.fullmatch(value):
            return value
    return None
