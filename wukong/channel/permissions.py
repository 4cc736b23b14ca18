"""Who may send: decided here, in apply, and nowhere else. behaviour.md section 5; deviations D-4, D-8.

All functions are pure reads of the slot's rows; they return a reason code.
"""

from wukong.channel.ids import AGENT, CUSTOMER_SERVICE, INFO, PERSON, VISITORS, ChannelId, peer_of, split_pair
from wukong.channel.state import Head, State, _decode_copy

SUCCESS = 1
AUTH_FAIL = 2
NOT_SUBSCRIBER = 3
IN_DENYLIST = 4
NOT_IN_ALLOWLIST = 13
SYSTEM_ERROR = 15
BAN = 19
DISBAND = 24
SEND_BAN = 25

PAIR_DENIED = 1
PAIR_ALLOWED = 2

# Types whose channel record is not asked for ban and disband (behaviour.md 5.2).
_WITHOUT_CHANNEL_FLAGS = (INFO, CUSTOMER_SERVICE, VISITORS, AGENT)


def is_system(state: State, uid: str) -> bool:
    return uid == state.settings.system_uid or uid in state.system_uids


def may_append(
    state: State, channel: ChannelId, part: bytes, head: Head | None, uid: str, *, is_cmd: bool, trusted: bool
) -> int:
    """The reason code for a message by uid. trusted: sent by the back end."""
    system = trusted or is_system(state, uid)
    if not trusted and uid in state.send_banned:
        return SEND_BAN
    # A command twin has no record of its own, so commands still reach a banned or dissolved group (http-api.md 21, 17).
    if head is not None and not is_cmd and channel.type not in _WITHOUT_CHANNEL_FLAGS:
        if head.ban:
            return BAN
        if head.disband:
            return DISBAND
        if head.send_ban and not system:
            return SEND_BAN
    if system:
        return SUCCESS
    return _sender(state, channel, part, head, uid)


def _sender(state: State, channel: ChannelId, part: bytes, head: Head | None, uid: str) -> int:
    kind = channel.type
    if kind == PERSON:
        return _person(state, channel, part, uid)
    if kind in (INFO, CUSTOMER_SERVICE):
        return SUCCESS
    if kind == AGENT and uid in split_pair(channel.id):
        return SUCCESS
    if kind == VISITORS and uid == channel.id:
        return SUCCESS
    if head is None:
        return NOT_SUBSCRIBER
    if head.denied and state.get(b"d" + part + uid.encode()) is not None:
        return IN_DENYLIST
    if not head.members or not state.is_member(part, uid):
        return NOT_SUBSCRIBER
    if head.allowed and state.get(b"a" + part + uid.encode()) is None:
        return NOT_IN_ALLOWLIST
    return SUCCESS


def _person(state: State, channel: ChannelId, part: bytes, uid: str) -> int:
    if uid not in split_pair(channel.id):
        # Only an id that was joined by hand can name other people's chat.
        return NOT_SUBSCRIBER
    receiver = peer_of(channel.id, uid)
    if is_system(state, receiver):
        return SUCCESS
    row = state.get(b"l" + part + receiver.encode())
    # No copied row means: neither denied nor allowed.
    bits = 0 if row is None else _decode_copy(row)[1][0]
    if bits & PAIR_DENIED:
        return IN_DENYLIST
    if not state.settings.whitelist_off_of_person and not bits & PAIR_ALLOWED:
        return NOT_IN_ALLOWLIST
    return SUCCESS
