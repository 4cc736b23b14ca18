"""What a slot forgets when it comes out of a backup."""

from tests.service.stack import NODE_ID, Stack
from wukong.backup.slots import apply_entry, begin_anew
from wukong.channel import nodes, presence, webhooks
from wukong.channel.commands import PutNode
from wukong.channel.nodes import NodeRow
from wukong.channel.state import Settings, State
from wukong.raft.log import MEMBERSHIP, NO_OP_COMMAND, REGULAR
from wukong.store.memory import MemoryStore
from wukong.store.overlay import Overlay


async def test_sessions_streams_and_the_table_of_nodes_are_over_and_messages_stay() -> None:
    stack = await Stack().start(Settings(webhook_on=True))
    await stack.connect("alice", 1)
    await stack.run("", PutNode(NODE_ID, NodeRow("host:1", 5, "")))
    slot = stack.node.slot("alice")
    for state in (stack.node.states[slot], stack.node.states[0]):
        incarnation = state.streams[NODE_ID].incarnation
        begin_anew(state)
        stream = state.streams[NODE_ID]
        assert (stream.incarnation, stream.ended, stream.replies) == (incarnation, True, [])
        assert state.effects == []
    state = stack.node.states[slot]
    assert presence.sessions_of(state, "alice") == []
    assert webhooks.wanted(state.settings) & webhooks.ONLINE
    assert presence.sweep_due(state), "a back end is to hear that she is not online"
    assert nodes.table(stack.node.states[0]) == {}
    # All of it is in the rows.
    state.reload()
    assert state.streams[NODE_ID].ended
    assert presence.sweep_due(state)


async def test_a_node_with_the_number_of_an_old_one_begins_above_it() -> None:
    stack = await Stack().start()
    await stack.connect("alice", 1)
    for state in stack.node.states:
        begin_anew(state)
    stack.node._overlay.commit()
    stack.clock.ms -= 1_000_000
    again = await Stack(store=stack.store.reopen()).start()
    assert again.node.incarnation > stack.node.incarnation
    await again.connect("alice", 1)
    assert len(presence.sessions_of(again.node.state_of("alice"), "alice")) == 1


async def test_entries_lead_to_the_rows_that_the_node_has() -> None:
    stack = await Stack(slot_count=1).start()
    await stack.use_cases.users.add_system_uids(["u1", "u2"])
    await stack.connect("alice", 1)
    overlay = Overlay(MemoryStore())
    state = State(0, overlay.view(stack.node.generations.prefix(0)))
    apply_entry(state, 1, NO_OP_COMMAND)
    apply_entry(state, 1, bytes((MEMBERSHIP,)) + b"\x90")
    for entry in stack.log.entries:
        apply_entry(state, entry.index, bytes((REGULAR,)) + entry.data)
        assert state.effects == []
    found = {key[6:]: value for key, value in overlay.changes.items() if value is not None}
    assert found
    rows = stack.node.states[0].scan(b"\1")
    assert rows == sorted(found.items())
