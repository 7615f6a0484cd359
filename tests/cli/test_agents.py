"""`passgate agents` as it is run: beside a gateway that serves, and where none does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from gateway.cli import main
from tests.simulator.gateway import Gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


def passgate(gateway: Gateway, *words: str, served: bool = True) -> tuple[int, str, str]:
    """`passgate agents …`: exit code, standard output and standard error."""
    where = ("--admin", gateway.admin_url) if served else ()
    out, err = StringIO(), StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["agents", *words, *where, "--config", str(gateway.folder / "config.yaml")])
    return code, out.getvalue(), err.getvalue()


def test_stop_and_start_where_a_gateway_serves(gateway: Gateway) -> None:
    """Stopped, listed with its reason, refused, started again: each says what holds now; doing it twice is no error."""
    reply = gateway.chat()
    assert reply.status == 200
    gateway.wait_for_rows(1, "request_id = ?", reply.headers["gateway-request-id"])
    code, out, _ = passgate(gateway, "stop", "procurement", "--reason", "pays twice")
    assert code == 0
    assert out.startswith("agent procurement is stopped; all 1 workers know, after ")
    assert gateway.chat().refusal == "agent_stopped"
    code, out, _ = passgate(gateway, "stop", "procurement", "--reason", "something else")
    assert code == 0
    assert out.startswith("already so: agent procurement was stopped at 20")
    assert " by bootstrap: pays twice; " in out
    code, out, _ = passgate(gateway, "list", "--stopped")
    assert code == 0
    assert out.splitlines()[1].startswith("procurement  dev")
    assert out.rstrip().endswith("stopped")
    code, out, _ = passgate(gateway, "show", "procurement")
    assert code == 0
    assert "by bootstrap: pays twice" in out
    assert gateway.issuer.subject in out.partition("callers of late")[2]
    assert passgate(gateway, "start", "procurement")[:1] == (0,)
    assert gateway.chat().status == 200
    code, out, _ = passgate(gateway, "start", "procurement")
    assert (code, out.partition(";")[0]) == (0, "agent procurement was not stopped")
    assert passgate(gateway, "list", "--stopped") == (0, "No agent is stopped.\n", "")


@pytest.mark.parametrize(
    ("words", "entry"),
    [
        (["--issuer", "dev"], ("issuer", "dev")),
        (["--token", "t-1"], ("token", "t-1")),
        (["--run", "r-1"], ("run", "r-1")),
        (["procurement", "--run", "r-1"], ("run", "procurement/r-1")),
        (["procurement/reader"], ("agent", "procurement/reader")),
    ],
    ids=str,
)
def test_whatever_can_be_stopped(gateway: Gateway, words: list[str], entry: tuple[str, str]) -> None:
    """An issuer, a token, a run of all or of one agent, a child: for programs as JSON."""
    code, out, _ = passgate(gateway, "stop", *words, "--format", "json")
    answer = json.loads(out)
    assert (code, answer["kind"], answer["id"], answer["effective"]) == (0, *entry, True)
    assert [(one["kind"], one["id"]) for one in gateway.admin("GET", "/admin/v1/stops")["stops"]] == [entry]
    code, out, _ = passgate(gateway, "start", *words, "--format", "json")
    assert (code, json.loads(out)["stopped"]) == (0, False)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["stop"], "say what to stop: an agent's ID, or --issuer, or --token, or --run"),
        (["start", "procurement", "--issuer", "dev"], "say what to start"),
        (["stop", "--token", "a", "--run", "b"], "say what to stop"),
        (["stop", "nobody"], "there is no agent 'nobody' in the configuration; there are procurement"),
        (["stop", "nobody", "--run", "r"], "there is no agent 'nobody'"),
        (["stop", "procurement/reader", "--run", "r"], "there is no agent 'procurement/reader'"),
        (["show", "nobody"], "there is no agent 'nobody'"),
        (["stop", "--issuer", "nobody"], "there is no issuer 'nobody' in the configuration; there are dev, gateway"),
        (["stop", "--run", "a b"], "a run's id matches"),
        (["stop", "--token", "eyJhbGciOiJFUzI1NiJ9.e30.c2ln"], "this is a token, not its id"),
        (["stop", "--token", ""], "say what to stop"),
        (["stop", "--token", "x" * 2049], "this is not the id of a token"),
        (["stop", "procurement", "--reason", "two\nlines"], "`reason` is one line of text of at most 500 characters"),
    ],
    ids=str,
)
def test_wrong_use_is_said(gateway: Gateway, tmp_path: Path, words: list[str], why: str) -> None:
    """Exit code 2 and what is known instead, whether the gateway says it or, where none serves, the command."""
    code, out, err = passgate(gateway, *words)
    assert (code, out) == (2, "")
    assert why in err
    beside = Gateway(tmp_path)
    beside.write()
    code, out, err = passgate(beside, *words, served=False)
    assert (code, out) == (2, "")
    assert why in err or (words[0] == "show" and "does not exist yet" in err)


def test_what_is_stopped_but_is_no_agent_is_listed(gateway: Gateway, tmp_path: Path) -> None:
    """`list --stopped` tells of tokens, runs and children too, also where nothing serves; not of them without it."""
    quiet = Gateway(tmp_path)
    quiet.write()
    for beside, served in ((gateway, True), (quiet, False)):
        stops = [["--token", "t-lost"], ["procurement", "--run", "r-7"], ["procurement/reader"]]
        for words in stops:
            assert passgate(beside, "stop", *words, "--reason", "why not", served=served)[0] == 0
        code, out, _ = passgate(beside, "list", "--stopped", served=served)
        first, *others = out.splitlines()
        assert (code, first) == (0, "No agent is stopped.")
        assert [line.partition(" was stopped at ")[0] for line in others] == [
            "token t-lost", "run procurement/r-7", "agent procurement/reader",
        ]  # fmt: skip
        assert all(line.endswith(": why not") for line in others)
        assert "t-lost" not in passgate(beside, "list", served=served)[1]
        told = json.loads(passgate(beside, "list", "--stopped", "--format", "json", served=served)[1])
        assert (told["agents"], [stop["kind"] for stop in told["stops"]]) == ([], ["token", "run", "agent"])
        for words in stops:
            assert passgate(beside, "start", *words, served=served)[0] == 0
        assert passgate(beside, "list", "--stopped", served=served) == (0, "No agent is stopped.\n", "")


def test_where_nothing_serves_it_holds_from_the_next_start(tmp_path: Path) -> None:
    """The store is read, and written under its lock; the gateway that starts then has the stop."""
    gateway = Gateway(tmp_path)
    gateway.write()
    code, out, _ = passgate(gateway, "stop", "procurement", "--reason", "for good", served=False)
    assert (code, out) == (0, "agent procurement is stopped; nothing serves now, so it holds from the next start on.\n")
    code, out, _ = passgate(gateway, "stop", "procurement", served=False)
    assert code == 0
    assert f"by uid-{os.getuid()}: for good" in out
    code, out, _ = passgate(gateway, "show", "procurement", served=False)
    assert code == 0
    assert "Nobody called in its name of late." in out
    listed = json.loads(passgate(gateway, "list", "--format", "json", served=False)[1])
    assert [agent["stopped"] for agent in listed["agents"]] == [True]
    with gateway:
        assert gateway.chat().refusal == "agent_stopped"
        code, _, err = passgate(gateway, "start", "procurement", served=False)  # port 0: it cannot be found
        assert code == 2
        assert f"is open for writing in process {gateway.process.pid}" in err
        assert "name it with --admin" in err
        assert passgate(gateway, "start", "procurement")[0] == 0
        assert gateway.chat().status == 200


def test_an_operator_is_known_by_the_token(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong token is refused with the gateway's words; it is never sent in the clear, nor told to anybody."""
    monkeypatch.setenv("PASSGATE_ADMIN_TOKEN", "wrong-token-of-somebody-else-1234567890abcd")
    for url, why in (
        (gateway.admin_url, "this is not an operator's token"),
        ("http://gateway.example:9901", "would show the operator's token to the network"),
        ("ftp://127.0.0.1", "is no address of an admin listener"),
        (gateway.metrics_url, "is not a gateway's admin listener"),
        ("http://127.0.0.1:1", "nothing serves at http://127.0.0.1:1"),
    ):
        code, out, err = passgate(gateway, "list", "--admin", url, served=False)
        assert (code, out) == (2, "")
        assert why in err
        assert "wrong-token" not in err
    monkeypatch.delenv("PASSGATE_ADMIN_TOKEN")
    nobody = Gateway(tmp_path)
    nobody.write()
    code, _, err = passgate(nobody, "list", "--admin", gateway.admin_url, served=False)
    assert code == 2
    assert "PASSGATE_ADMIN_TOKEN" in err


def test_a_worker_that_does_not_say_so_is_exit_code_1(gateway: Gateway) -> None:
    """What is written down and not known everywhere yet is told, and a script can see it."""
    (worker,) = gateway.worker_pids()
    try:
        os.kill(worker, signal.SIGSTOP)
        code, out, _ = passgate(gateway, "stop", "procurement")
    finally:
        os.kill(worker, signal.SIGCONT)
    assert code == 1
    assert "has not said that it knows" in out
    code, out, _ = passgate(gateway, "start", "procurement")
    assert (code, out.partition(";")[0]) == (0, "agent procurement is started again")
