"""One channel's messages in order and each once, by message_seq. Pure.

    position      everything up to here has been released, is known to be the user's own, or was given up
    held          arrived behind a gap, waits for it to close
    own           seqs of the user's own sends behind a gap (the sending connection gets no RECV, a SENDACK instead)
    holes         seqs that were given up; should one arrive after all it is released late rather than lost

A position of None says that it is not known yet where to begin: everything is held until `start`.
"""

from typing import Final, Generic, TypeVar

ItemT = TypeVar("ItemT")

HOLES_LIMIT_COUNT: Final = 1_000
"""Given-up seqs remembered per channel; a larger gap is not remembered, and what arrives of it late is dropped."""
OWN_LIMIT_COUNT: Final = 10_000
"""Own seqs remembered behind a gap; beyond it the user's own messages come back through the sync provider."""


class ChannelOrder(Generic[ItemT]):
    __slots__ = ("_held", "_holes", "_own", "position")

    def __init__(self, position: int | None = None) -> None:
        self.position = position
        self._held: dict[int, ItemT] = {}
        self._own: set[int] = set()
        self._holes: set[int] = set()

    @property
    def held_count(self) -> int:
        return len(self._held)

    @property
    def gap_end(self) -> int | None:
        """Last seq of the first gap: what is missing lies between `position` (excluded) and here; None without a gap
        or position."""
        if self.position is None or not (self._held or self._own):
            return None
        return self._first_waiting() - 1

    def offer(self, seq: int, item: ItemT) -> list[ItemT] | None:
        """What can be released now, in order; [] when the item has to wait; None when it is a repetition."""
        position = self.position
        if position is not None and seq <= position:
            if seq not in self._holes:
                return None
            self._holes.remove(seq)
            return [item]
        if seq in self._held or seq in self._own:
            return None
        if seq - 1 == position and not self._held and not self._own:
            self.position = seq
            return [item]
        self._held[seq] = item
        return self._release()

    def sent(self, seq: int) -> list[ItemT]:
        """The user's own message has this seq: nothing to release for it, but it may close a gap."""
        if self.position is not None and seq <= self.position:
            self._holes.discard(seq)
            return []
        if len(self._own) < OWN_LIMIT_COUNT:
            self._own.add(seq)
        return self._release()

    def start(self, position: int | None = None) -> list[ItemT]:
        """Begin after this seq, but not behind what has arrived already; None: right before that. Without effect when
        begun already."""
        if self.position is not None:
            return []
        if self._held or self._own:
            before_first = self._first_waiting() - 1
            position = before_first if position is None else min(position, before_first)
        self.position = position or 0
        return self._release()

    def skip(self, seq: int) -> list[ItemT]:
        """Give up what is missing up to this seq, included."""
        position = self.position
        if position is None or seq <= position:
            return []
        arrived = sorted(each for each in self._held if each <= seq)
        known = {each for each in self._own if each <= seq}.union(arrived)
        missing_count = seq - position - len(known)
        if missing_count <= HOLES_LIMIT_COUNT - len(self._holes):
            self._holes.update(each for each in range(position + 1, seq + 1) if each not in known)
        released = [self._held.pop(each) for each in arrived]
        self._own -= known
        self.position = seq
        return released + self._release()

    def _release(self) -> list[ItemT]:
        position = self.position
        if position is None:
            return []
        released: list[ItemT] = []
        while True:
            following = position + 1
            if following in self._held:
                released.append(self._held.pop(following))
            elif following in self._own:
                self._own.remove(following)
            else:
                break
            position = following
        self.position = position
        return released

    def _first_waiting(self) -> int:
        return min(min(self._held, default=2**64), min(self._own, default=2**64))
