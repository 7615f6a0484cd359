"""The tools of the security team on a gateway that serves: signed policies, and what its decision log tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.identity.dsse import seal
from gateway.identity.issue import PrivateKey
from gateway.policy.bundle import PAYLOAD_TYPE, manifest_of
from tests.simulator.gateway import ALLOW_ALL, Gateway

NOTHING = "version: 1\npolicy: tests\nrules:\n  - {id: none, effect: deny, match: {models: ['*']}}\n"


class Signed(Gateway):
    """A gateway that takes signed policies only; `sign` signs those in its folder. A start finds them as they lie."""

    key = PrivateKey.new("EdDSA")

    def write(self) -> None:
        """See `Gateway`; only the first time."""
        if not self.folder.joinpath("sign.json").exists():
            super().write()
            (self.folder / "sign.json").write_text(json.dumps({"keys": [self.key.public_jwk]}))
            self.sign(5)

    def put(self, policy: str) -> None:
        """Put another policy into the folder, in place of the one that is there."""
        (self.folder / "policies/all.yaml").write_text(policy)

    def sign(self, revision: int) -> None:
        """Sign what is in the folder."""
        policies = self.folder / "policies"
        manifest = manifest_of({"all.yaml": (policies / "all.yaml").read_bytes()}, revision, "2026-11-20T10:00:00Z")
        (policies / "bundle.json").write_bytes(seal(manifest, PAYLOAD_TYPE, self.key))

    def answers(self) -> int:
        """How a call is answered by the policies in force."""
        return self.chat().status


@pytest.fixture
def gateway(tmp_path: Path) -> Signed:
    """Not started yet."""
    policies = {"dir": "policies", "bundle": {"keys": "sign.json", "min_revision": 2}}
    return Signed(tmp_path, config={"policies": policies})


def test_only_what_is_signed_and_never_what_was_left_behind(gateway: Signed) -> None:
    """P9: what is not signed, or rolled back: a reload is refused and the old set serves on; a start is refused."""
    with gateway:
        assert gateway.answers() == 200
        gateway.put(NOTHING)
        (problem,) = gateway.reload()
        assert "all.yaml:1: is not the file that was signed in bundle.json; " in problem
        assert gateway.answers() == 200
        assert "is not the file that was signed" in gateway.ready()[1]

        gateway.sign(6)
        assert gateway.reload() == []
        assert gateway.answers() == 403

        gateway.put(ALLOW_ALL)
        gateway.sign(5)
        (problem,) = gateway.reload()
        assert "signed as revision 5, and this gateway has taken 6 before" in problem
        assert gateway.answers() == 403
        gateway.stop()

    done = gateway.command("serve", check=False)
    assert done.returncode == 2
    assert "passgate cannot start: the policies are signed as revision 5" in done.stderr


def test_the_decision_log_explains_and_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a gateway wrote down is enough to say why it refused a call, and what other policies would have said."""
    limited = ALLOW_ALL.replace('models: ["*"]}', 'models: ["*"]}, when: "args.max_tokens <= 100"')
    with Gateway(tmp_path, policies={"p.yaml": limited}) as gateway:
        assert gateway.chat(max_tokens=100).status == 200
        refused = gateway.chat(max_tokens=101)
        assert refused.refusal == "policy_denied"
        assert gateway.chat().refusal == "policy_denied"

        def said(*words: str) -> tuple[int, str]:
            code = main(["policy", *words, "--config", str(tmp_path / "config.yaml")])
            return code, capsys.readouterr().out

        decision = refused.json()["error"]["gateway"]["decision_id"]
        code, out = said("explain", decision)
        assert code == 0
        assert f"{decision}  20" in out
        assert "The policies are those of then." in out
        assert "no    args.max_tokens <= 100   (args.max_tokens = 101)" in out
        log = str(tmp_path / "var/audit")
        assert said("replay", log) == (0, "3 calls: 3 decided as before, 0 otherwise, 0 cannot be told\n")
        (tmp_path / "policies/p.yaml").write_text(limited.replace("<= 100", "< 100"))
        code, out = said("replay", log)
        assert code == 1
        assert "tests/models: 1 call of agent procurement: allow before, deny now" in out
        assert out.endswith("3 calls: 2 decided as before, 1 otherwise, 0 cannot be told\n")
        (tmp_path / "policies/p.yaml").write_text(limited.replace("max_tokens <= 100", "n == 1"))
        assert said("replay", log)[1].endswith("3 calls: 0 decided as before, 0 otherwise, 3 cannot be told\n")
