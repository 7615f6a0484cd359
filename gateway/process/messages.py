"""The messages between the supervisor and its workers; the name of a struct travels as its tag.

Each says who tells or asks it, and what answers it. Their shape is checked where they arrive (`channel`).
"""

from __future__ import annotations

import msgspec

from gateway.core.approval import ApprovalAsk, ApprovalKey, Standing
from gateway.core.attestation import Attestation, Use
from gateway.core.errors import Refusal, Repeat
from gateway.core.principal import StopKey
from gateway.core.run import RunKey, RunRef
from gateway.core.sources import Listed
from gateway.core.stop import Stop
from gateway.ledger import Batch
from gateway.runs import Entered


class Message(msgspec.Struct, tag=True, array_like=True, gc=False):
    """Base of all messages; the class name travels as the tag."""


class Prepare(Message):
    """Supervisor → worker: build the state of this configuration beside the present one."""

    generation: int
    path: str
    files: dict[str, bytes]
    dirs: dict[str, Listed]
    variables: dict[str, str | None]
    policies: bytes  # the image of its rules
    demo_url: str | None


class Hello(Message):
    """Worker → supervisor: a new worker asks for what does not come with a configuration."""


class Stops(Message):
    """Supervisor → worker: a change of the stop list; answered once the calls in flight know."""

    version: int
    at: float  # when this version held, on the monotonic clock that all processes share
    added: list[Stop]
    removed: list[StopKey]


class Beat(Message):
    """Supervisor → worker: at the moment `at` this version of the stop list held."""

    version: int
    at: float


class Welcome(Message):
    """The reply to `Hello`; what changes of it later is told by messages of its own."""

    secret: bytes  # new with every start of the gateway
    keys: dict[str, bytes | None]
    stops: Stops  # the whole list


class Keys(Message):
    """Supervisor → worker: these keys were fetched, or have become too old (`None`); see `Identity.adopt`."""

    keys: dict[str, bytes | None]


class FetchKeys(Message):
    """Worker → supervisor: a token names an unknown key of this issuer; answered when `Keys` was sent, if at all."""

    issuer: str


class FirstUse(Message):
    """Worker → supervisor: remember this proof until then; answered with whether it was new."""

    proof: bytes
    until: float


class Fresh(Message):
    """The reply to `FirstUse`."""

    new: bool


class Commit(Message):
    """Supervisor → worker: from now on new calls run on what was prepared."""

    generation: int


class Drain(Message):
    """Supervisor → worker: take no new connection, finish what runs within `seconds`, then exit."""

    seconds: float


class Flush(Message):
    """Supervisor → worker: tell what you have counted now (a scrape is waiting); answered after that."""


class StoreState(Message):
    """Supervisor → worker: whether the durable store takes writes; without it nothing new is admitted."""

    healthy: bool


class Post(Message):
    """Worker → supervisor: commit this batch; answered after the commit."""

    batch: Batch


class Told(Message):
    """Worker → supervisor: counted since the last time, calls under way now, and why it lets none in."""

    counts: list[tuple[str, tuple[str, ...], int | tuple[list[int], float]]]
    inflight: int
    queued: int
    trouble: str | None


class Enter(Message):
    """Worker → supervisor: reserve a step of a run."""

    run: RunRef
    kind: str


class Leave(Message):
    """Worker → supervisor: give a reservation back."""

    ticket: int


class ShowRun(Message):
    """Worker → supervisor: a run's counters."""

    key: RunKey


class ShowCall(Message):
    """Worker → supervisor: what the ledger knows of a call of this owner."""

    request_id: str
    iss: str
    subject: str


class Grant(Message):
    """Worker → supervisor: count this child of a run, if it is in one, and sign its claims (JSON)."""

    claims: bytes
    child: str
    run: RunRef | None


class Granted(Message):
    """The reply to `Grant`."""

    token: str


class Gather(Message):
    """Worker → supervisor: record what was presented with a call, and tell what its run has attested; see `Gathered`.

    `names` are those that a posted attestation may call the agent by; `across` names steps of which what did not
    pass counts in any run, each with the time (epoch microseconds) since when.
    """

    run: RunKey
    names: tuple[str, ...]
    across: tuple[tuple[str, int], ...]
    presented: tuple[Attestation, ...]


class Gathered(Message):
    """The reply to `Gather`: oldest first; `seen` is the number of the last one of all that was recorded."""

    attestations: tuple[Attestation, ...]
    seen: int


class Present(Message):
    """Worker → supervisor: record attestations; answered (`Recorded`) once they are durable."""

    attestations: tuple[Attestation, ...]


class Recorded(Message):
    """The reply to `Present`: for each whether it was new."""

    new: tuple[bool, ...]


class Consume(Message):
    """Worker → supervisor: use up what a call rests on, all of it or nothing; answered once that is durable.

    Refused (`attestation_required`) where something is used up already, or where one of `steps` was attested after
    `seen` not to have passed in the same run.
    """

    holder: str  # the request, or the approval that it was kept for
    uses: tuple[Use, ...]
    run: RunKey
    names: tuple[str, ...]
    steps: tuple[str, ...]
    seen: int


class Release(Message):
    """Worker → supervisor: give back what this holder had used up: its call was certainly not sent."""

    holder: str


class Decided(Message):
    """Worker → supervisor: lines for the decision log; answered once they are in it."""

    records: list[bytes]


class FindApproval(Message):
    """Worker → supervisor: is there an approval of this very call? Answered with `Stands`."""

    key: ApprovalKey


class Hold(Message):
    """Worker → supervisor: hold a call; the approval that there is, or a new pending one (`Stands`)."""

    ask: ApprovalAsk


class Withdraw(Message):
    """Worker → supervisor: this very call needs no approval any more; what one keeps for it is free once answered."""

    key: ApprovalKey


class AwaitApproval(Message):
    """Worker → supervisor: answered (`Stands`) once the approval is decided, or after so many seconds."""

    id: str
    seconds: float


class Claim(Message):
    """Worker → supervisor: carry an approved call out, once; answered with `Stands`."""

    id: str
    request_id: str


class Unclaim(Message):
    """Worker → supervisor: an approved call has ended; where it was certainly not `sent` the approval stands as before.

    Else what came of it is in a `Post`, or nobody knows it.
    """

    id: str
    request_id: str
    sent: bool = False


class ShowApproval(Message):
    """Worker → supervisor: what this owner may read of an approval."""

    id: str
    iss: str
    subject: str


class Stands(Message):
    """How an approval stands, `None` where there is none."""

    standing: Standing | None


class Done(Message):
    """A reply without content, or with plain values."""

    value: dict[str, object] | None = None


class EnteredRun(Message):
    """The reply to `Enter`."""

    entered: Entered


class Refused(Message):
    """A reply that is a refusal."""

    code: str
    sentence: str
    fields: dict[str, object]
    detail: str | None
    status: int
    repeat: Repeat
    retry_after: int
    headers: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, refusal: Refusal) -> Refused:
        """What travels of a refusal: all of it."""
        r = refusal
        return cls(r.code, r.sentence, r.fields, r.detail, r.status, r.repeat, r.retry_after, r.headers)

    def refusal(self) -> Refusal:
        """The refusal again, on the other side."""
        return Refusal(
            self.code,
            self.sentence,
            detail=self.detail,
            fields=self.fields,
            status=self.status,
            repeat=self.repeat,
            retry_after=self.retry_after,
            headers=self.headers,
        )


class Failed(Message):
    """A reply that is a failure of the other side; the words are for the log."""

    error: str


AnyMessage = (
    Prepare | Hello | Welcome | Stops | Beat | Keys | FetchKeys | FirstUse | Fresh
    | Commit | Drain | Flush | StoreState | Post | Told | Enter | Leave | ShowRun | ShowCall
    | Grant | Granted | Gather | Gathered | Present | Recorded | Consume | Release | Decided
    | FindApproval | Hold | Withdraw | AwaitApproval | Claim | Unclaim | ShowApproval | Stands
    | Done | EnteredRun | Refused | Failed
)  # fmt: skip
