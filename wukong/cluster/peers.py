"""Which nodes this node can speak to and hears, and since when.

Two directions, because they fail one by one: our link to a node (connected, disconnected) and what comes from it
(heard). A node that is frozen keeps its links for a while; only silence tells.
"""

import math

from wukong.clock import Clock
from wukong.cluster.interfaces import Facts

REACHABLE_SILENCE_S = 3.0
"""A node that was silent for longer counts as unreachable though its link is up."""


class Peers:
    """Fed by the links. Times in seconds; a node asks about itself and is always reachable."""

    def __init__(self, node_id: int, clock: Clock) -> None:
        self.node_id = node_id
        self._clock = clock
        self._began = clock.monotonic()
        self._up: dict[int, float] = {}  # node -> since when our link to it is up
        self._down: dict[int, float] = {}  # node -> since when it is gone
        self._heard: dict[int, float] = {}
        self._disk_heard: dict[tuple[int, int], float] = {}
        self.facts: dict[int, Facts] = {}

    # -- the links tell

    def connected(self, node: int) -> None:
        self._up[node] = self._clock.monotonic()
        self._down.pop(node, None)

    def disconnected(self, node: int) -> None:
        if self._up.pop(node, None) is not None:
            self._down[node] = self._clock.monotonic()

    def told(self, node: int, facts: Facts) -> None:
        """A node told its facts."""
        self.facts[node] = facts
        self.heard(node)

    def heard(self, node: int) -> None:
        """Something came from a node. Cheap: called for every message."""
        now = self._heard[node] = self._clock.monotonic()
        facts = self.facts.get(node)
        if facts is not None:
            self._disk_heard[node, facts.disk] = now

    # -- who is there

    def connected_nodes(self) -> list[int]:
        """Those our links to are up, frozen or not; this node is not among them."""
        return sorted(self._up)

    def is_reachable(self, node: int) -> bool:
        """Our link to it is up, and it was heard lately."""
        return node == self.node_id or (node in self._up and self.silent_s(node) <= REACHABLE_SILENCE_S)

    def reachable(self) -> set[int]:
        """This node is among them."""
        return {self.node_id, *(node for node in self._up if self.is_reachable(node))}

    def steady_s(self, node: int) -> float:
        """How long it has been reachable without a break of our link; 0 while it is not."""
        if node == self.node_id:
            return math.inf
        return self._clock.monotonic() - self._up[node] if self.is_reachable(node) else 0.0

    def silent_s(self, node: int) -> float:
        """How long nothing has come from it, or nothing could be sent to it; infinite for who never was there."""
        if node == self.node_id:
            return 0.0
        if node not in self._heard:
            # A link that has just come up brings its facts in a moment.
            return self._clock.monotonic() - self._up[node] if node in self._up else math.inf
        now = self._clock.monotonic()
        # It may be heard for ever without a link of ours to it: a node that was removed before this process began.
        return max(now - self._heard[node], 0.0 if node in self._up else now - self._down.get(node, self._began))

    def heard_s(self, node: int) -> float:
        """How long ago something came from it, whether or not anything could be sent to it; infinite for never."""
        return self._clock.monotonic() - self._heard.get(node, -math.inf)

    def disk_silent_s(self, node: int, disk: int) -> float:
        """How long ago this node was last heard while it told this disk; since this object was made if it never was."""
        return self._clock.monotonic() - self._disk_heard.get((node, disk), self._began)
