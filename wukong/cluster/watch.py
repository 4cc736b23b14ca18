"""Who is gone: a slot's leader ends the incarnation of a node that fell silent. docs/design/cluster.md, section 4.

Until then the dead node's users look online. It decides nothing else: who receives a message is in the log, and a node
that was only cut off takes a new incarnation when it meets its fence.
"""

import logging

import msgspec

from wukong.channel.commands import NodeGone
from wukong.clock import Clock
from wukong.cluster.interfaces import Groups, Replica
from wukong.cluster.leads import Leads
from wukong.cluster.peers import Peers
from wukong.cluster.proposer import Proposer

log = logging.getLogger(__name__)


FROZEN_S = 2.0
"""After a longer pause between two looks the watch begins anew."""


class WatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """node_gone_after_ms: of silence, seen by this leader itself. majority_s: a leader that heard no majority for
    longer judges nobody: it is the one that is cut off."""

    node_gone_after_ms: int = 10_000
    majority_s: float = 1.0


class Watch:
    def __init__(
        self,
        *,
        groups: Groups,
        replica: Replica,
        peers: Peers,
        leads: Leads,
        proposer: Proposer,
        clock: Clock,
        options: WatchOptions | None = None,
    ) -> None:
        self._groups = groups
        self._replica = replica
        self._peers = peers
        self._leads = leads
        self._proposer = proposer
        self._clock = clock
        self._options = options or WatchOptions()
        self._live_since: float | None = None
        self._looked_at = 0.0

    def step(self) -> None:
        if not self._replica.is_live:
            self._live_since = None
            return
        now = self._clock.monotonic()
        # Who was frozen has not watched: what others said meanwhile is still to be read.
        if self._live_since is None or now - self._looked_at > FROZEN_S:
            self._live_since = now
        self._looked_at = now
        after_s = self._options.node_gone_after_ms / 1000
        for slot in self._leads.led():
            watched_s = min(self._leads.age_s(slot), now - self._live_since)
            if watched_s < after_s or self._groups.heard_s(slot) > self._options.majority_s:
                continue
            for node, stream in list(self._replica.states[slot].streams.items()):
                if node == self._peers.node_id or stream.ended or self._peers.silent_s(node) < after_s:
                    continue
                gone = NodeGone(node, stream.incarnation)
                # The pause also lets a node that only we cannot reach live in peace for a while.
                if self._proposer.propose(("gone", slot, node), slot, gone, pause_s=after_s):
                    log.warning("slot %d: node %d is gone, its sessions end", slot, node)
