"""May it: stages 6 to 8 of the page. What was attested, what policy says of it, and whether a person said yes.

1. A decision is in the decision log before its call is sent, and before anybody is told that it is refused.
2. While a call waits for an approval nothing is decided for good: with the approval everything is asked anew, of
   the policies and attestations of that moment. Only the age of attestations counts from when it was held, and only
   for a call that still needs the approval.
3. An approved call is carried out once. Who repeats it gets what came of it.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from gateway.approvals import approval_ask, approval_key, not_carried_out
from gateway.audit import call_digest, decision_record
from gateway.core.approval import ApprovalAsk, Standing
from gateway.core.attestation import Attestation
from gateway.core.call import Call, Target
from gateway.core.decision import Decision, Reason
from gateway.core.errors import Refusal
from gateway.core.principal import Principal
from gateway.flights import Flight
from gateway.permit import Desk, Evidence, Permit
from gateway.policy import Discounted, Facts, Matching, RunView, Situation, explain_refusal
from gateway.routing import Errand
from gateway.runs import Step
from gateway.telemetry.trail import Trail
from gateway.world import World

_PATIENCE: Final = 20
"""Seconds that a connection is held at most for an approval."""
_ANEW: Final = frozenset({"approved", "expired", "cancelled"})
"""What may have become of an approval that was waited for, so that everything is asked anew."""
_WAIT: Final = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})", re.IGNORECASE)
_ASYNC: Final = re.compile(r"(?:^|[,;])\s*respond-async\s*(?:$|[,;])", re.IGNORECASE)
_MICRO: Final = 1_000_000


_NOTHING: Final = Evidence()


class Permission:
    """Asks for one call what may come of it; `seek` gives the `Permit`, or raises `Refusal`."""

    def __init__(
        self,
        desk: Desk,
        now: Callable[[], World],
        trail: Trail,
        principal: Principal,
        call: Call,
        errand: Errand | None,
        step: Step,
        flight: Flight,
    ) -> None:
        """`now` gives the configuration in force, which may change while the call is held."""
        self._desk = desk
        self._now = now
        self._trail = trail
        self._principal = principal
        self._call = call
        self._errand = errand
        self._step = step
        self._flight = flight
        self._facts = Facts.of(principal, call)
        self._began = time.perf_counter()

    async def seek(self) -> Permit:
        """6 to 8; raises `Refusal` (`policy_denied`, `attestation_required`, `approval_required`, …)."""
        world = self._now()
        settled = self._settled(world)
        if settled is not None:
            targets = self._errand.targets if self._errand is not None else ()
            return await self._conclude(world, self._by_route(settled), targets, _NOTHING, None)
        patience = self._patience()
        while True:
            world = self._now()
            ruled = self._ruled(world)
            evidence = await self._gather(world, ruled)  # 6
            standing = await self._standing(ruled)
            decision, targets = self._decide(world, ruled, evidence, standing)  # 7
            decision = self._by_route(decision)
            approval: Standing | None = None
            if decision.effect == "hold":
                approval = await self._hold(world, decision, targets)  # 8
                if approval is not None and approval.status == "pending" and patience:
                    waiting = self._desk.await_approval(approval.id, patience)
                    approval = await self._flight.unless_stopped(waiting)
                    patience = 0
                    if approval is not None and approval.status in _ANEW:
                        continue
            return await self._conclude(world, decision, targets, evidence, approval)

    def _settled(self, world: World) -> Decision | None:
        """The decision where nothing but names had to be known for it, as of most calls."""
        policy = world.policy
        if policy.per_target or "workflow-attestation" in self._trail.head.headers:
            return None
        settled = policy.find(self._facts).settled
        return settled if settled is not None and settled.obligations.only is None else None

    def _by_route(self, decision: Decision) -> Decision:
        """The decision, where the route lets its provider run what the call asks it to run: rule and route must."""
        refused = self._errand.refused_tools if self._errand is not None else ()
        if not refused or decision.effect == "deny":
            return decision
        detail = (
            f"the route of model {self._call.model} does not let its provider run {', '.join(refused)}; leave it out, "
            "or have the operator allow it in hosted_tools of that model"
        )
        reason = Reason(rule="", clause="route", code="hosted_tools", detail=detail)
        kept = {"uses": (), "rests_on": (), "approval": None}
        return replace(decision, effect="deny", code="hosted_tool_refused", reasons=(reason,), **kept)

    # -- 6 gather

    def _ruled(self, world: World) -> list[tuple[Target | None, Matching]]:
        """The rules that concern the call, for each target where that makes a difference."""
        policy, errand = world.policy, self._errand
        if policy.per_target and errand is not None:
            return [(target, policy.find(self._facts, target.provider)) for target in errand.targets]
        return [(None, policy.find(self._facts))]

    async def _gather(self, world: World, ruled: list[tuple[Target | None, Matching]]) -> Evidence:
        presented = world.attesters.read_header(self._trail.head)
        needs = [matching.needs for _, matching in ruled]
        run = self._trail.run
        if run is None or not (presented or any(need.attested for need in needs)):
            return Evidence()
        names = (self._principal.subject, self._principal.agent.id)
        given: list[Attestation] = []
        discounted: list[Discounted] = []
        for text in presented:
            verdict = world.attesters.examine(text, names, run.key)
            if isinstance(verdict, Attestation):
                given.append(replace(verdict, request_id=self._trail.request_id, owner=run.key[:2]))
            else:
                discounted.append(Discounted(verdict.code, verdict.step, verdict.detail))
        now = world.clock.now()
        steps = sorted(
            (pair for need in needs for pair in need.across), key=lambda pair: pair[1]
        )  # the longest is last
        across = tuple({step: round((now - age) * _MICRO) for step, age in steps}.items())
        try:
            found, seen = await self._desk.gather(run.key, names, across, tuple(given))
        except Refusal:
            if any(need.in_earnest for need in needs):
                raise
            return Evidence()  # what is presented for later, or only counted, holds no call up
        standing, fallen = world.attesters.standing(found)
        discounted += (Discounted(one.code, one.step, one.detail, one.subject) for one in fallen)
        return Evidence(run.key, names, standing, tuple(discounted), seen)

    # -- 7 decide

    def _decide(
        self,
        world: World,
        ruled: list[tuple[Target | None, Matching]],
        evidence: Evidence,
        standing: Standing | None,
    ) -> tuple[Decision, tuple[Target, ...]]:
        """The decision, and the targets that it is about."""
        errand = self._errand
        decisions = [
            (target, matching.settled or self._ruling(matching, self._situation(world, target, evidence, standing)))
            for target, matching in ruled
        ]
        order = ("allow", "hold", "deny")
        decision = min((decided for _, decided in decisions), key=lambda decided: order.index(decided.effect))
        if errand is None:
            return decision, ()
        if len(decisions) == 1 and decisions[0][0] is None:
            targets = errand.targets
        else:  # what the call rests on and must keep is the same for all targets that are left
            terms = decision.effect, decision.uses, decision.approval, decision.obligations
            targets = tuple(
                target
                for target, one in decisions
                if target is not None and (one.effect, one.uses, one.approval, one.obligations) == terms
            )
        only = decision.obligations.only
        if only is not None and self._call.kind == "llm" and decision.effect != "deny":
            targets = tuple(target for target in targets if target.provider in only)
            if not targets:
                words = ", ".join(sorted(only)) or "none"
                message = f"the rules that allow it let only these providers serve it: {words}"
                decision = replace(decision, effect="deny", message=message)
        return decision, targets

    @staticmethod
    def _ruling(matching: Matching, situation: Situation) -> Decision:
        """What the rules say; ages count from when the call was held only where it still needs its approval.

        Else to have been held once would keep attestations fresh for a call that goes on without anybody's yes.
        """
        decision = matching.decide(situation)
        if decision.effect == "allow" and situation.held_at is not None:
            return matching.decide(dataclasses.replace(situation, held_at=None))
        return decision

    def _situation(
        self, world: World, target: Target | None, evidence: Evidence, standing: Standing | None
    ) -> Situation:
        facts, run, errand = self._step.facts, self._trail.run, self._errand
        view = None
        if run is not None and facts is not None:
            view = RunView(run.key.id, run.source, self._step.number, facts.cost_nano_usd, facts.tokens, run.key[:2])
        region = errand.region(target) if errand is not None and target is not None else self._call.region
        return Situation(
            self._principal,
            self._call,
            world.clock.now(),
            run=view,
            region=region,
            attested=evidence.attested,
            discounted=evidence.discounted,
            held_at=standing.held_at if standing is not None else None,
        )

    # -- 8 approve

    async def _standing(self, ruled: list[tuple[Target | None, Matching]]) -> Standing | None:
        """The approval that this call is held for, or was: the age of what it rests on counts from then."""
        if self._call.kind == "own" or not any(matching.needs.asks for _, matching in ruled):
            return None
        return await self._desk.find_approval(approval_key(self._principal, self._call, self._trail.run))

    async def _hold(self, world: World, decision: Decision, targets: tuple[Target, ...]) -> Standing | None:
        """The approval of this call; where another call has what it rests on, that is what was decided."""
        try:
            return await self._desk.hold(self._ask(decision))
        except Refusal as refusal:
            if refusal.code == "attestation_required":
                refusal.fields["step"] = ", ".join(dict.fromkeys(one.step for one in decision.rests_on))
                await self._write_down(world, _used_up(decision, refusal), targets, "")
                refusal.fields["decision_id"] = self._trail.decision_id
            raise

    def _ask(self, decision: Decision) -> ApprovalAsk:
        trail = self._trail
        return approval_ask(
            self._principal,
            self._call,
            trail.run,
            decision,
            decision_id=self._own_decision_id,
            request_id=trail.request_id,
            now=self._now().clock.now(),
        )

    def _patience(self) -> int:
        """Seconds that the connection may be held (RFC 7240 §4.3)."""
        found = _WAIT.search(self._preferences)
        return min(int(found[1]), _PATIENCE) if found else 0

    @property
    def _preferences(self) -> str:
        return ",".join(self._trail.head.headers.getall("prefer", []))

    # -- what comes of it

    @property
    def _own_decision_id(self) -> str:
        return "dec_" + self._trail.request_id.removeprefix("req_")

    async def _conclude(
        self,
        world: World,
        decision: Decision,
        targets: tuple[Target, ...],
        evidence: Evidence,
        approval: Standing | None,
    ) -> Permit:
        """Write the decision down, and give the permit or say why there is none."""
        refusal: Refusal | None = None
        permit = Permit(self._desk, self._trail.request_id, decision, targets, evidence)
        try:
            try:
                if decision.effect == "hold":
                    await self._approve(world, permit, approval)
                    decision = replace(decision, effect="allow")
                if decision.effect == "allow":
                    await self._use_up(permit)
            except Refusal as caught:
                refusal = caught
                if caught.code == "attestation_required":
                    decision = _used_up(decision, caught)
                elif decision.effect == "hold":
                    decision = replace(decision, code=caught.code)  # what the agent is told tells refusals apart
            await self._write_down(world, decision, targets, approval.id if approval is not None else "")
        except BaseException:
            permit.give_back()
            raise
        if refusal is not None or decision.effect == "deny":
            permit.give_back()
            refusal = refusal or self._denied(decision)
            refusal.fields["decision_id"] = self._trail.decision_id
            raise refusal
        if self._errand is not None:
            self._errand.oblige(decision.obligations)
        return permit

    async def _use_up(self, permit: Permit) -> None:
        """Use up what the call rests on; what an approval of this very call keeps is its own, if it needs none now."""
        try:
            await permit.use_up()
        except Refusal as refusal:
            if permit.approval is not None or refusal.fields.get("reason") != "consumed":
                raise
            await self._desk.withdraw(approval_key(self._principal, self._call, self._trail.run))
            await permit.use_up()

    async def _write_down(self, world: World, decision: Decision, targets: tuple[Target, ...], approval: str) -> None:
        """Put the decision into the log; a refusal that repeats is there already."""
        trail = self._trail
        decision_id = world.decision_id(trail, decision, self._facts, self._call, approval)
        if decision_id == self._own_decision_id:
            record = decision_record(
                trail,
                decision,
                decision_id=decision_id,
                at=world.clock.now(),
                mode=world.policy.mode,
                digest=await call_digest(trail.head, self._call.body),
                providers=tuple(target.provider for target in targets),
                approval=approval,
                redact=world.redact,
                latency=time.perf_counter() - self._began,
            )
            try:
                await self._desk.decided(record)
            except Refusal:
                if self._call.kind != "own" or self._call.method != "GET":
                    raise
                return  # who only looks at what is its own may do so while nothing can be written
        trail.decision, trail.decision_id = decision, decision_id  # not before: who is told an id can find it
        world.remember_refusal(trail, decision, self._facts, self._call, approval)

    def _denied(self, decision: Decision) -> Refusal:
        fields: dict[str, object] = {}
        first = next((reason for reason in decision.reasons if reason.step), None)
        if first is not None:
            fields |= {"step": first.step, "subject": first.subject, "reason": first.code}
        if decision.reasons:
            fields["reasons"] = [
                {"rule": one.rule, "clause": one.clause, "code": one.code, "detail": one.detail}
                for one in decision.reasons
            ]
        of_route = next((reason.detail for reason in decision.reasons if reason.clause == "route"), "")
        return Refusal(decision.code, of_route or explain_refusal(decision, self._facts), fields=fields)

    async def _approve(self, world: World, permit: Permit, approval: Standing | None) -> None:
        """An approved call begins to be carried out, or was before; raises `Refusal` for every other standing."""
        claimed: Standing | None = None
        if approval is not None and approval.status == "approved":
            permit.approve(approval)  # before it is claimed: a claim whose answer is lost is given back
            claimed = await self._desk.claim(approval.id, self._trail.request_id)
            if claimed is not None and claimed.status == "executing":
                permit.approve(claimed)
                return
        approval = claimed or approval
        if approval is None:
            raise Refusal("store_unavailable", "the approval of this call cannot be found; retry shortly")
        if approval.outcome is None:
            where = f"{world.origin(self._trail.head)}/gateway/v1/approvals/{approval.id}"
            raise not_carried_out(approval, where, at_once=bool(_ASYNC.search(self._preferences)))
        permit.approve(approval)


def _used_up(decision: Decision, refusal: Refusal) -> Decision:
    """What came of a decision whose attestations are used up, or have been withdrawn, in this very moment."""
    code, step = refusal.fields.get("reason", "consumed"), refusal.fields.get("step", "")
    rule = str(refusal.fields.get("rule", ""))
    reason = Reason(rule, clause="consume", code=str(code), detail=refusal.sentence, step=str(step))
    return replace(decision, effect="deny", code=refusal.code, reasons=(reason,), uses=(), rests_on=())
