"""What every service's HTTP API is made of. The only place, with `main` and `routes`, that knows FastAPI."""

from shared.http.app import create_app
from shared.http.bodies import Accepted, JobLink, RunLink
from shared.http.dependencies import Caller, Ledger, PageLimit, Transaction, requires

__all__ = ["Accepted", "Caller", "JobLink", "Ledger", "PageLimit", "RunLink", "Transaction", "create_app", "requires"]
