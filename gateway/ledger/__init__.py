"""The append-only record of money.

A worker's `Book` takes the rows of its calls and sends them; the supervisor's `Poster` commits
them, `recover` does so for workers that died. `ledger_row` makes a row of a call's trail. `report`
and `export` are what finance reads.
"""

from gateway.ledger.book import Book
from gateway.ledger.calls import find_call
from gateway.ledger.poster import Posted, Poster
from gateway.ledger.posting import Batch, Posting
from gateway.ledger.recovery import Recovered, recover
from gateway.ledger.rows import Bill, ledger_row

__all__ = [
    "Batch",
    "Bill",
    "Book",
    "Posted",
    "Poster",
    "Posting",
    "Recovered",
    "find_call",
    "ledger_row",
    "recover",
]
