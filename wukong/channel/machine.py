"""apply: one slot's state and one committed pack in, replies and effects out.

Strategy: apply is total and deterministic. A refusal is a reply, never an exception, because the entry is committed
on every node already. Time, session numbers and token hashes come inside the pack. A pack is accepted only if it goes
on where its stream stopped; a repeat changes nothing and gets the first replies again. Any way of cutting the same
commands into packs, entries and store batches gives the same rows.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from wukong.channel import (
    conversations,
    copies,
    events,
    imports,
    members,
    messages,
    nodes,
    presence,
    retention,
    webhooks,
)
from wukong.channel.bounds import FITS, pack_fits
from wukong.channel.commands import (
    AdvanceCommands,
    AdvanceWebhooks,
    Append,
    CloseSession,
    Disband,
    DropNode,
    Erase,
    ForgetNode,
    ForgetOutbox,
    FreezeOffline,
    Hello,
    ImportChats,
    ImportMembers,
    ImportMessages,
    NodeGone,
    OpenSession,
    Pack,
    PostEvent,
    PutChannel,
    PutCopy,
    PutNode,
    PutRetention,
    PutSettings,
    QuitDevices,
    RememberSync,
    RemoveAllMembers,
    RemoveMembers,
    Reply,
    Retire,
    SetToken,
    StageMembers,
    SweepSessions,
    TakeSync,
    UpdateChat,
    UpdateList,
    UpdateSystemUids,
)
from wukong.channel.messages import FIRST_MS, LAST_MS
from wukong.channel.permissions import SYSTEM_ERROR
from wukong.channel.state import State, Stream, encode

# Replies kept for repeats per stream; an origin that leaves more unsettled gets reason 0 for repeats of older ones.
MAX_OPEN_REPLIES = 65_536

_OUT_OF_BOUNDS = Reply(SYSTEM_ERROR)

_decode_reply = msgspec.msgpack.Decoder(Reply).decode


def _hello(state: State, command: Hello) -> Reply:
    return Reply()


_RULES: dict[type, Callable[[State, Any], Reply]] = {
    Append: messages.append,
    PutChannel: members.put_channel,
    StageMembers: members.stage_members,
    RemoveMembers: members.remove_members,
    RemoveAllMembers: members.remove_all_members,
    Disband: members.disband,
    UpdateList: members.update_list,
    UpdateChat: conversations.update_chat,
    AdvanceCommands: conversations.advance_commands,
    SetToken: presence.set_token,
    QuitDevices: presence.quit_devices,
    OpenSession: presence.open_session,
    CloseSession: presence.close_session,
    Hello: _hello,
    RememberSync: conversations.remember_sync,
    TakeSync: conversations.take_sync,
    PutSettings: copies.put_settings,
    UpdateSystemUids: copies.update_system_uids,
    PutCopy: copies.put_copy,
    ForgetOutbox: copies.forget_outbox,
    NodeGone: presence.node_gone,
    PutNode: nodes.put_node,
    DropNode: nodes.drop_node,
    ForgetNode: nodes.forget_node,
    PostEvent: events.post_event,
    AdvanceWebhooks: webhooks.advance,
    FreezeOffline: webhooks.freeze_offline,
    SweepSessions: presence.sweep_sessions,
    ImportMessages: imports.import_messages,
    ImportMembers: imports.import_members,
    ImportChats: imports.import_chats,
    PutRetention: retention.put_retention,
    Retire: retention.retire,
    Erase: retention.erase,
}


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What one pack led to. first: counter of replies[0]. resend_from: the pack had a gap; nothing of it was applied
    and the origin has to send again from this counter (0: no gap). fenced: its incarnation is over, so the commands
    without a reply are not applied and never will be; those with one are, up to the NodeGone that ended it. invalid:
    its numbers are out of all bounds, nothing of it was applied."""

    node: int
    incarnation: int
    first: int
    replies: list[Reply]
    resend_from: int = 0
    fenced: bool = False
    invalid: bool = False


def apply_pack(state: State, index: int, pack: Pack) -> Outcome:
    """Apply a committed pack at a log index. Effects are appended to state.effects in order."""
    if not pack_fits(pack):
        return Outcome(pack.node, pack.incarnation, pack.first, [], invalid=True)
    before = stream = state.streams.get(pack.node)
    if stream is None or pack.incarnation > stream.incarnation:
        # A new incarnation ends the node's older ones here, but not before its first command, whose counter is 1:
        # a stream that only memory knows would be another one after a restart.
        stream = Stream(pack.incarnation)
    elif pack.incarnation < stream.incarnation or stream.ended:
        return Outcome(pack.node, pack.incarnation, pack.first, [], fenced=True)
    if pack.first > stream.last + 1:
        return Outcome(pack.node, pack.incarnation, pack.first, [], resend_from=stream.last + 1)
    state.streams[pack.node] = stream
    _settle(stream, pack.done)
    known = stream.last + 1 - pack.first
    replies = _repeat(stream, pack, known) if known > 0 else []
    row = state.slot_row
    state.now_ms = row.time_ms = max(row.time_ms, min(max(pack.now_ms, FIRST_MS), LAST_MS))
    state.index, state.node, state.incarnation = index, pack.node, pack.incarnation
    state.woken = 0
    if before is not None and before is not stream and not before.ended:
        presence.incarnation_ended(state)
    for command in pack.commands[known:] if known > 0 else pack.commands:
        kind = type(command)
        reply = _RULES[kind](state, command) if FITS[kind](command) else _OUT_OF_BOUNDS
        replies.append(reply)
        stream.last += 1
        stream.replies.append(encode(reply))
        if stream.ended:
            # By this command. The rest is fenced, as it would be in a pack of its own.
            break
    if stream.ended:
        _settle(stream, stream.last)
    _settle(stream, stream.done + len(stream.replies) - MAX_OPEN_REPLIES)
    state.put_stream(pack.node, stream)
    state.put_slot_row()
    return Outcome(pack.node, pack.incarnation, pack.first, replies, fenced=len(replies) < len(pack.commands))


def _settle(stream: Stream, done: int) -> None:
    """Forget replies that have arrived at the origin."""
    count = min(done - stream.done, len(stream.replies))
    if count > 0:
        del stream.replies[:count]
        stream.done += count


def _repeat(stream: Stream, pack: Pack, known: int) -> list[Reply]:
    """First replies of the counters that were applied before; a settled one is answered with an empty reply, its
    origin has it already."""
    replies = []
    for counter in range(pack.first, pack.first + min(known, len(pack.commands))):
        at = counter - stream.done - 1
        replies.append(_decode_reply(stream.replies[at]) if at >= 0 else Reply(0))
    return replies
