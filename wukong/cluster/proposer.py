"""Commands that the control of a cluster proposes on its own account: each once at a time, and not too often."""

import logging
from collections.abc import Hashable

from wukong.channel.commands import Command, Reply
from wukong.channel.permissions import SUCCESS
from wukong.clock import Clock
from wukong.cluster.interfaces import Replica
from wukong.errors import WukongError

log = logging.getLogger(__name__)

KEY_LIMIT_COUNT = 100_000
"""Keys remembered for their pause; beyond it the oldest are forgotten, which may repeat a command early."""


class Proposer:
    def __init__(self, replica: Replica, clock: Clock) -> None:
        self._replica = replica
        self._clock = clock
        self._under_way: set[Hashable] = set()
        self._proposed_at: dict[Hashable, float] = {}

    def propose(self, key: Hashable, slot: int, command: Command, *, pause_s: float) -> bool:
        """Propose a command unless one with this key is under way or was proposed less than pause_s ago.

        False: it was not; the caller comes again. Nobody waits for the outcome: what is wanted is seen in the state."""
        now = self._clock.monotonic()
        last = self._proposed_at.get(key)
        if not self._replica.is_live or key in self._under_way or (last is not None and now - last < pause_s):
            return False

        def done(reply: Reply | None) -> None:
            self._under_way.discard(key)
            if reply is not None and reply.reason != SUCCESS:
                log.error("slot %d refused %s with reason %d", slot, type(command).__name__, reply.reason)

        self._proposed_at.pop(key, None)
        self._proposed_at[key] = now
        if len(self._proposed_at) > KEY_LIMIT_COUNT:
            del self._proposed_at[next(iter(self._proposed_at))]
        self._under_way.add(key)
        try:
            self._replica.propose(slot, command, done)
        except WukongError as error:
            self._under_way.discard(key)
            log.warning("%s for slot %d has to wait: %s", type(command).__name__, slot, error)
            return False
        return True
