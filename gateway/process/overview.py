"""What operators see of the processes: readiness, status and the gauges, read off the parts that know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway import __version__
from gateway.core.clock import Clock, rfc3339
from gateway.core.money import usd_text
from gateway.core.run import RunFacts
from gateway.ledger import find_call
from gateway.metering.prices import PriceBook
from gateway.process.auditing import Auditing
from gateway.process.doors import Doors
from gateway.process.in_force import InForce
from gateway.process.messages import (
    ShowCall,
    ShowRun,
)
from gateway.process.pool import WorkerPool
from gateway.process.trust import Trust
from gateway.runs import Register
from gateway.state import Durable
from gateway.telemetry.metrics import Registry
from gateway.web.metrics import Check


class _Store(Protocol):
    @property
    def trouble(self) -> str | None: ...


class Overview:
    """Looks at everything and changes nothing; `draining` says whether the gateway is stopping."""

    def __init__(
        self,
        now: InForce,
        pool: WorkerPool,
        store: _Store,
        trust: Trust,
        doors: Doors,
        auditing: Auditing,
        draining: Callable[[], bool],
    ) -> None:
        """`now` is the configuration in force."""
        self._now = now
        self._pool = pool
        self._store = store
        self._trust = trust
        self._doors = doors
        self._auditing = auditing
        self._draining = draining

    def readiness(self) -> tuple[bool, list[Check]]:
        """Whether any call can be served, and why (not)."""
        pool = self._pool
        serving = len(pool.serving)
        state = "ok" if serving == pool.count else "warning" if serving else "failing"
        trouble = f"; {pool.trouble}" if pool.trouble and state != "ok" else ""
        checks = [Check("workers", state, f"{serving} of {pool.count} serve{trouble}")]
        if self._draining():
            checks.append(Check("draining", "failing", "the gateway is stopping"))
        checks.append(self._store_check())
        checks += self._auditing.checks()
        if problems := self._now.problems:
            text = f"the last reload was refused, the old state serves: {problems[0]}"
            checks.append(Check("config", "warning", text))
        if self._now.config.settings.policies.mode == "shadow":
            text = "policies.mode is shadow: what rules refuse passes and is only counted"
            checks.append(Check("policies", "warning", text))
        checks += self._trust.checks()
        checks += self._doors.checks()
        checks += [Check("off", "warning", reason) for reason in self._now.config.off.values()]
        return not any(check.status == "failing" for check in checks), checks

    def _store_check(self) -> Check:
        """The store, and the recovery files of the workers: without them no call can be let in."""
        if self._store.trouble is not None:
            return Check("store", "failing", self._store.trouble)
        troubles = [worker.trouble for worker in self._pool.serving]
        stuck = [trouble for trouble in troubles if trouble]
        if stuck:
            return Check("store", "failing" if all(troubles) else "warning", stuck[0])
        return Check("store", "ok", "takes writes")

    def status(self) -> dict[str, object]:
        """What `GET /admin/v1/status` tells."""
        ready, checks = self.readiness()
        now = self._now
        return {
            "version": __version__,
            "ready": ready,
            "checks": [check._asdict() for check in checks],
            "config": {"path": str(now.config.path), "generation": now.generation, "taken_at": rfc3339(now.taken_at)},
            "workers": [
                {"name": w.name, "pid": w.pid, "serving": w.serving, "inflight": w.inflight, "queued": w.queued}
                for w in self._pool.workers.values()
            ],
            "worker_restarts": self._pool.restarts,
        }

    def describe(self, registry: Registry, prices: PriceBook, clock: Clock) -> None:
        """Let the registry read the gauges whenever they are shown."""
        workers, now = self._pool.workers, self._now
        registry.gauge("inflight", lambda: [((), sum(w.inflight for w in workers.values()))])
        registry.gauge("ledger_queue", lambda: [((), sum(w.queued for w in workers.values()))])
        registry.gauge("workers", lambda: [((), len(self._pool.serving))])
        registry.gauge("config_last_reload_successful", lambda: [((), 0.0 if now.problems else 1.0)])
        registry.gauge("config_last_reload_success_timestamp_seconds", lambda: [((), now.taken_at)])
        registry.gauge("price_book_age_seconds", lambda: [((), prices.age_seconds(clock.now()))])
        registry.gauge("jwks_age_seconds", self._trust.ages)
        registry.gauge("tls_cert_expiry_timestamp_seconds", self._doors.expiries)
        registry.gauge("build_info", lambda: [((__version__,), 1.0)])


async def own(asked: ShowRun | ShowCall, register: Register, store: Durable, now: float) -> dict[str, object] | None:
    """What an agent may read of its own runs and calls, `None` where there is no such one of this owner."""
    if isinstance(asked, ShowRun):
        facts = await register.facts(asked.key)
        return _run_as_told(facts) if facts else None
    request_id, owner = asked.request_id, (asked.iss, asked.subject)
    return await store.read(lambda conn: find_call(conn, request_id, owner, now))


def _run_as_told(facts: RunFacts) -> dict[str, object]:
    """A run's counters as its agent may read them: `GET /gateway/v1/runs/{run}`."""
    return {
        "run": facts.key.id,
        "opened": rfc3339(facts.opened),
        "parent": facts.parent,
        "depth": facts.depth,
        "steps": facts.steps,
        "tool_calls": facts.tool_calls,
        "tokens": facts.tokens,
        "cost_nano_usd": facts.cost_nano_usd,
        "cost_usd": usd_text(facts.cost_nano_usd),
        "children": facts.children,
    }
