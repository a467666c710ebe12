"""What leads workers to where their keys are, taken out one at a time: a storm that goes well without it proves nothing."""

from __future__ import annotations

from storm.mutants import PATTERN, Mutant

FRESH = Mutant(
    "what a sentinel or a node has said is true for ever, whatever becomes of the connection",
    1,
    "queue.routes",
    # Two places of one module, which have to be changed together.
    f"{PATTERN}(?s)self._found = None\\n(.*?    def lead_to.*?)if found is not None and began_s.*?BURST_S:",
    r"return\n\1if found is not None:",
)

ROUTE_MUTANTS = {
    "fresh answers": FRESH,
    "READONLY": Mutant(
        "a connection that answers READONLY is kept",
        1,
        "queue.scripts",
        "    moved = has_moved(error)\n",
        "    moved = False\n",
    ),
    "MOVED": Mutant(
        "MOVED is not followed",
        1,
        "queue.cluster",
        "        if isinstance(answer, redis_errors.MovedError | redis_errors.MasterDownError):\n",
        "        if False:\n",
        # The scripts would let go of the connections as well.
        and_also=Mutant(
            "nor is it taken for a sign that the server has moved",
            1,
            "queue.errors",
            "error, redis_errors.ReadOnlyError | redis_errors.MasterDownError | redis_errors.MovedError\n",
            "error, redis_errors.ReadOnlyError | redis_errors.MasterDownError\n",
            # A connection that happens to be opened anew would find its way.
            and_also=FRESH,
        ),
    ),
    "ASK": Mutant(
        "ASK is not followed",
        1,
        "queue.cluster",
        "if isinstance(answer, redis_errors.AskError) and not isinstance(answer, redis_errors.MovedError):",
        "if False:",
    ),
}
