"""Which slots this node leads, and since when."""

from wukong.clock import Clock
from wukong.cluster.interfaces import Groups


class Leads:
    """Looked at in every step: a leadership that was lost and won again in between is a new one, by its term."""

    def __init__(self, groups: Groups, clock: Clock) -> None:
        self._groups = groups
        self._clock = clock
        self._since: dict[int, tuple[int, float]] = {}

    def look(self) -> None:
        now = self._clock.monotonic()
        for group in range(self._groups.group_count):
            if not self._groups.is_leader(group):
                self._since.pop(group, None)
                continue
            term = self._groups.term(group)
            if group not in self._since or self._since[group][0] != term:
                self._since[group] = term, now

    def led(self) -> list[int]:
        """As of now, in ascending order."""
        return [group for group in sorted(self._since) if self._groups.is_leader(group)]

    def age_s(self, group: int) -> float:
        """How long this node has led a group; 0 if it does not."""
        since = self._since.get(group)
        return 0.0 if since is None else self._clock.monotonic() - since[1]
