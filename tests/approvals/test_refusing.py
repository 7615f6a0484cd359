"""What an agent reads when its approval does not let a call go on."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.approvals import not_carried_out
from gateway.core.approval import Standing


def told(status: str, **changes: Any) -> tuple[str, dict[str, Any]]:  # noqa: ANN401 -- members of a standing
    """The code, and what stands under `approval`."""
    refusal = not_carried_out(Standing(id="apr_1", status=status, held_at=1.0, expires=2.0, **changes), "https://g/x")
    shown: Any = refusal.fields["approval"]
    return refusal.code, shown


@pytest.mark.parametrize(
    ("status", "code", "action"),
    [
        ("pending", "approval_required", "retry"),
        ("executing", "step_in_progress", "retry"),
        ("expired", "approval_required", "request"),
        ("cancelled", "approval_required", "request"),
        ("consumed", "step_expired", "none"),
        ("failed", "step_in_doubt", "none"),
        ("denied", "policy_denied", "none"),
    ],
)
def test_the_next_step_is_the_one_that_the_sentence_names(status: str, code: str, action: str) -> None:
    """Who may ask again is not told that there is nothing to do."""
    found, shown = told(status)
    assert (found, shown["next_action"]) == (code, action)


def test_a_no_says_whose_and_why() -> None:
    """The refusal alone tells what the approver wrote, as the status URL does."""
    _, shown = told("denied", by=("treasury-desk",), reason="a duplicate")
    assert (shown["by"], shown["message"]) == (["treasury-desk"], "a duplicate")
    assert "by" not in told("pending")[1]
