"""Audience: channel -> uids that are members and have a session on this node.

Derived from the replicated membership, never a source of it: apply's joins and leaves change it in log order, a login
adds its channels, a logout takes them away, all in one thread. So fan-out costs what is online here, and an audit can
compare it with members and sessions at any time. Members that follow from a channel's id are not in it.
"""

from collections.abc import Iterable

from wukong.channel.ids import ChannelId

_NOBODY: dict[str, None] = {}


class Audience:
    def __init__(self) -> None:
        # Dicts as ordered sets: fan-out goes in the order of joining.
        self._uids: dict[ChannelId, dict[str, None]] = {}
        self._channels: dict[str, dict[ChannelId, None]] = {}

    def join(self, channel: ChannelId, uid: str) -> None:
        self._uids.setdefault(channel, {})[uid] = None
        self._channels.setdefault(uid, {})[channel] = None

    def leave(self, channel: ChannelId, uid: str) -> None:
        uids = self._uids.get(channel)
        if uids is not None and uid in uids:
            del uids[uid]
            if not uids:
                del self._uids[channel]
            channels = self._channels[uid]
            del channels[channel]
            if not channels:
                del self._channels[uid]

    def clear(self, channel: ChannelId) -> None:
        """Everybody left the channel."""
        for uid in list(self._uids.get(channel, _NOBODY)):
            self.leave(channel, uid)

    def forget(self, uid: str) -> None:
        """The user has no session here any more."""
        for channel in list(self._channels.get(uid, ())):
            self.leave(channel, uid)

    def clear_all(self) -> None:
        """Nobody is connected any more."""
        self._uids.clear()
        self._channels.clear()

    def uids(self, channel: ChannelId) -> Iterable[str]:
        """In the order of joining; valid until the next change."""
        return self._uids.get(channel, _NOBODY)

    def all(self) -> list[ChannelId]:
        """Channels that have an audience here."""
        return list(self._uids)

    def channels(self, uid: str) -> Iterable[ChannelId]:
        return self._channels.get(uid, ())

    def size(self, channel: ChannelId) -> int:
        return len(self._uids.get(channel, _NOBODY))
