"""ReadIndex: reads that see every write acknowledged before they were asked for (Raft dissertation, section 6.4).

A leader notes its commit index, asks the others whether it still leads, and may answer once a majority said so. All
reads that come while the turn lasts share one round. A follower asks its leader for the index and waits locally.
"""

from collections.abc import Callable

ReadCallback = Callable[[int | None], None]
"""Called once: with the index that must be applied before reading, or None when this node cannot tell."""


class _Round:
    __slots__ = ("callbacks", "confirmed_by", "deadline", "index", "term")

    def __init__(self, term: int, index: int, deadline: float, callbacks: list[ReadCallback]) -> None:
        self.term = term
        self.index = index
        self.deadline = deadline
        self.callbacks = callbacks
        self.confirmed_by: set[int] = set()


class ReadRounds:
    """limit_count: reads waiting here at most, per group; one more gets None at once.
    timeout_s: a round, or a question to the leader, that is not answered for so long ends with None.
    first_id: where numbering begins, at random: an answer to a question of an earlier life must not fit one of this.
    """

    def __init__(self, *, limit_count: int, timeout_s: float, first_id: int) -> None:
        self._limit_count = limit_count
        self._timeout_s = timeout_s
        self._count = 0
        self._next_id = first_id
        self._waiting: list[ReadCallback] = []
        self._rounds: dict[int, _Round] = {}
        self._forwarded: dict[int, tuple[int, float, ReadCallback]] = {}  # id -> (leader, deadline, callback)

    @property
    def is_empty(self) -> bool:
        return not (self._waiting or self._rounds or self._forwarded)

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def wait(self, callback: ReadCallback) -> None:
        """Join the next round of this leader."""
        if self._count >= self._limit_count:
            callback(None)
            return
        self._count += 1
        self._waiting.append(callback)

    def forward(self, leader: int, now: float, callback: ReadCallback) -> int | None:
        """Remember a read that is asked of the leader; the id to send, or None at the limit."""
        if self._count >= self._limit_count:
            callback(None)
            return None
        self._count += 1
        self._next_id += 1
        self._forwarded[self._next_id] = (leader, now + self._timeout_s, callback)
        return self._next_id

    def start_round(self, term: int, index: int, now: float) -> int:
        """A round for everything that waits; the id to send."""
        self._next_id += 1
        self._rounds[self._next_id] = _Round(term, index, now + self._timeout_s, self._waiting)
        self._waiting = []
        return self._next_id

    def confirmed(self, node: int, round_id: int, term: int, is_majority: Callable[[int], bool]) -> None:
        current = self._rounds.get(round_id)
        if current is None or current.term != term:
            return
        current.confirmed_by.add(node)
        if is_majority(len(current.confirmed_by)):
            # Rounds started earlier are confirmed with it: the answers are younger than their questions.
            for earlier in [number for number in self._rounds if number <= round_id]:
                done = self._rounds.pop(earlier)
                self._call(done.callbacks, done.index)

    def answered(self, node: int, read_id: int, index: int | None) -> None:
        forwarded = self._forwarded.get(read_id)
        if forwarded is not None and forwarded[0] == node:
            del self._forwarded[read_id]
            self._call([forwarded[2]], index)

    def lost(self, leader: int) -> None:
        """The link to a node broke: what was asked of it gets None."""
        for number, (asked, _, callback) in list(self._forwarded.items()):
            if asked == leader:
                del self._forwarded[number]
                self._call([callback], None)

    def fail_led(self) -> None:
        """This node does not lead: what waited for its rounds gets None."""
        waiting, self._waiting = self._waiting, []
        rounds, self._rounds = self._rounds, {}
        self._call(waiting, None)
        for current in rounds.values():
            self._call(current.callbacks, None)

    def leadership(self, led_term: int | None, leader: int | None, now: float) -> None:
        """led_term: the term this node leads in, else None. leader: whom it follows. Ends what cannot end well."""
        if led_term is None:
            self.fail_led()
        else:
            for number, current in list(self._rounds.items()):
                if current.term != led_term or now > current.deadline:
                    del self._rounds[number]
                    self._call(current.callbacks, None)
        for number, (asked, deadline, callback) in list(self._forwarded.items()):
            if asked != leader or now > deadline:
                del self._forwarded[number]
                self._call([callback], None)

    def _call(self, callbacks: list[ReadCallback], index: int | None) -> None:
        self._count -= len(callbacks)
        for callback in callbacks:
            callback(index)
