"""What is different in a slot that comes out of a backup: the nodes it knew are not there any more.

Pure, and the same for every node that is restored from one backup. Facts of channels, users and messages stay.
"""

from wukong.channel import presence
from wukong.channel.commands import NodeGone, decode_entry
from wukong.channel.machine import apply_pack
from wukong.channel.state import State, after
from wukong.raft.log import REGULAR


def apply_entry(state: State, index: int, command: bytes) -> None:
    """One committed entry of the slot's log, as a replica applies it. Raises ValueError for a format that this program
    does not know."""
    if command[0] == REGULAR and len(command) > 1:
        for pack in decode_entry(command[1:]):
            apply_pack(state, index, pack)
    state.effects.clear()


def begin_anew(state: State) -> None:
    """End the streams of all nodes, and with them every session: those that come begin a higher incarnation. The table
    of nodes is empty; whoever is a member writes its row."""
    for node, stream in sorted(state.streams.items()):
        presence.node_gone(state, NodeGone(node, stream.incarnation))
    for key, _ in state.scan(b"N", after(b"N")):
        state.delete(key)
    state.put_slot_row()
    state.effects.clear()
