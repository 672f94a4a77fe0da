"""A plain HTTP service (a web interface, a search engine): it is well when it answers with 2xx."""

from __future__ import annotations

from backends.cluster.reading import ProbeResult
from backends.engines.engine import HealthFirst, well
from backends.engines.target import HttpAnswer


class Plain(HealthFirst):
    """A plain HTTP service; it is asked at its address itself and serves no prompts."""

    name = "http"
    route = ""
    keyed = True
    specific = False

    def judge(self, answer: HttpAnswer) -> ProbeResult | None:
        """Good on any 2xx."""
        return well(answer) if 200 <= answer.status < 300 else None
