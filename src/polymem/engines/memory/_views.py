"""Two ways to see the tables: see `engines/_tables/views.py`."""

from polymem.engines._tables.views import CommittedView, ForkedView, Reason, View

__all__ = ["CommittedView", "ForkedView", "Reason", "View"]
