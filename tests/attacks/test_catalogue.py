"""The catalogue and the tests agree: each of its ids is named by a test or waits with a reason, never both."""

from __future__ import annotations

from tests.attacks.catalogue import Catalogue, read


def _catalogue() -> Catalogue:
    return read()


def test_every_id_is_named_or_waits() -> None:
    """An attack that no test names stands in uncovered.txt, with what it waits for."""
    catalogue = _catalogue()
    assert len(catalogue.ids) == len(set(catalogue.ids))
    missing = [name for name in catalogue.ids if name not in catalogue.named and name not in catalogue.waiting]
    assert not missing, f"no test names these, and they do not stand in uncovered.txt: {missing}"


def test_what_waits_is_named_nowhere() -> None:
    """An attack that a test names does not wait; what is covered in part is named."""
    catalogue = _catalogue()
    both = {name: catalogue.named[name] for name in catalogue.waiting if name in catalogue.named}
    assert not both, "these are named by a test and wait nevertheless: remove the line, or make it `ID in part: …`"
    assert not [name for name in catalogue.in_part if name not in catalogue.named]
    assert {*catalogue.waiting, *catalogue.in_part} <= set(catalogue.ids)
