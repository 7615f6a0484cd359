"""What operators see of the listeners' certificates, and which renewals are none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.core.clock import rfc3339
from gateway.core.sources import DiskSources, KeptSources, Sources
from gateway.process.doors import Doors, not_renewed
from gateway.settings.types import Bind
from gateway.telemetry.logs import Log
from gateway.web.settings import AgentsDoorSettings, ListenSettings, MetricsDoorSettings, TlsSettings
from tests.simulator.authority import Authority, Certified, Lives
from tests.simulator.clock import SetClock

FREE = Bind("127.0.0.1", 0)
NOW = SetClock().now()
HOUR = 3600.0


@dataclass
class Files:
    """The files of two listeners: agents' with authorities, the metrics' without."""

    agents: Certified
    client_ca: bytes
    metrics: Certified

    def settings(self, folder: Path) -> ListenSettings:
        """Where they are."""
        agents, metrics = self.agents.save(folder, "agents"), self.metrics.save(folder, "metrics")
        client_ca = folder / "ca.pem"
        client_ca.write_bytes(self.client_ca)
        return ListenSettings(
            agents=AgentsDoorSettings(bind=FREE, tls=TlsSettings(cert=agents[0], key=agents[1], client_ca=client_ca)),
            metrics=MetricsDoorSettings(bind=FREE, tls=TlsSettings(cert=metrics[0], key=metrics[1])),
        )


def lives(begins: float, ends: float) -> Lives:
    """From when until when, in hours from now."""
    return Lives(begins * HOUR, ends * HOUR, NOW)


def files(agents: Lives, metrics: Lives | None = None, *authorities: Lives) -> Files:
    """Certificates that live as told, authorities too."""
    servers = Authority("servers")
    bundle = b"".join(Authority(lives=one).pem() for one in authorities or (lives(-1, 24),))
    return Files(servers.server(agents), bundle, servers.server(metrics or lives(-1, 9)))


def kept(settings: ListenSettings) -> Sources:
    """What stands on disk now, whatever is written later."""
    disk = DiskSources()
    for door in settings.doors.values():
        for file in (door.tls.cert, door.tls.key, door.tls.client_ca) if door.tls else ():
            if file is not None:
                disk.read(file)
    return KeptSources(disk.files, {}, {})


def test_certificates_that_are_not_renewed_in_time(tmp_path: Path) -> None:
    """The end of each is a metric; it is a warning from a tenth of its life on, and when no authority is left."""
    clock = SetClock()
    settings = files(lives(-1, 9), lives(-10, 90), lives(-9, 1), lives(-1, 11)).settings(tmp_path)
    doors = Doors(settings, kept(settings), lambda: Log("supervisor"), clock)
    assert dict(doors.expiries()) == {("agents",): NOW + 9 * HOUR, ("metrics",): NOW + 90 * HOUR}

    def warnings() -> list[str]:
        clock.time = NOW + hours * HOUR
        checks = list(doors.checks())
        assert {(check.name, check.status) for check in checks} <= {("certificate", "warning")}
        return [check.text for check in checks]

    hours = 7.99
    assert warnings() == []
    hours = 8.01
    when = rfc3339(NOW + 9 * HOUR)
    assert warnings() == [f"listener agents: its certificate expires at {when}, and nobody has renewed it yet"]
    hours = 9
    assert warnings() == [f"listener agents: its certificate expired at {when}, and clients refuse it"]
    hours = 11
    assert warnings()[1:] == [
        f"listener agents: its client_ca expired at {rfc3339(NOW + 11 * HOUR)}, and no client certificate counts"
    ]
    hours = 81
    assert len(warnings()) == 3


def test_what_has_expired_is_no_renewal(tmp_path: Path) -> None:
    """Files that changed for something expired are refused by name; expired ones that stayed are in nobody's way."""
    good = files(lives(-1, 9))
    settings = good.settings(tmp_path)
    serving = kept(settings)
    late = files(lives(-9, -1), None, lives(-9, -1), lives(-9, -2))
    late.metrics = good.metrics
    late.settings(tmp_path)
    expired = rfc3339(NOW - HOUR)
    assert not_renewed(settings, serving, kept(settings), NOW) == [
        f"listen.agents.tls.cert: {tmp_path / 'agents.crt'} expired at {expired}",
        f"listen.agents.tls.client_ca: {tmp_path / 'ca.pem'} expired at {expired}",
    ]
    assert not_renewed(settings, kept(settings), kept(settings), NOW) == []
    late.agents, late.client_ca = good.agents, Authority(lives=lives(-9, -1)).pem() + Authority(lives=lives(0, 9)).pem()
    late.settings(tmp_path)
    assert not_renewed(settings, serving, kept(settings), NOW) == []
