"""Which task a prompt is, and who should answer it: pure rules over the inventory and the snapshot, and a library too.

from backends.routing import Wish, choose

decision = choose(inventory, snapshot, Wish("code", tokens=1200))
decision.chosen                     # the endpoint to ask, None where nobody can serve
for candidate in decision.candidates:
    print(candidate.endpoint, candidate.outcome, candidate.reason)
"""

from backends.routing.choose import Candidate, Decision, Wish, choose

__all__ = ["Candidate", "Decision", "Wish", "choose"]
