"""Which task a prompt is, and who should answer it: pure rules over the inventory and the snapshot, and a library too.

from backends.routing import Wish, choose, classify

classified = classify("write a bash loop over all pods")
classified.task, classified.confidence, classified.runner_up, classified.why

decision = choose(inventory, snapshot, Wish(classified.task, tokens=1200))
decision.chosen                     # the endpoint to ask, None where nobody can serve
for candidate in decision.candidates:
    print(candidate.endpoint, candidate.outcome, candidate.reason)
"""

from backends.routing.choose import Candidate, Decision, Wish, choose
from backends.routing.classify import Classified, classify

__all__ = ["Candidate", "Classified", "Decision", "Wish", "choose", "classify"]
