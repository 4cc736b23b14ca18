"""The table of nodes: who is wanted in the cluster and where. Slot 0 only; it is the target that the members of every
group are brought to. docs/design/cluster.md section 2.
"""

import msgspec

from wukong.channel.commands import DropNode, ForgetNode, NodeRow, PutNode, Reply
from wukong.channel.permissions import SYSTEM_ERROR
from wukong.channel.state import State, after, encode

__all__ = ["MAX_NODES", "NodeRow", "drop_node", "forget_node", "put_node", "table"]

# One node more is refused: the table is read whole, and every group has its members from it.
MAX_NODES = 64

_decode_node = msgspec.msgpack.Decoder(NodeRow).decode


def _key(node: int) -> bytes:
    return b"N" + node.to_bytes(2, "big")


def put_node(state: State, command: PutNode) -> Reply:
    old = _row(state, command.node)
    row = command.row
    if old is None:
        if len(state.scan(b"N", after(b"N"), limit=MAX_NODES)) == MAX_NODES:
            return Reply(SYSTEM_ERROR)
    elif old.leaving and row.disk:
        # A node tells where it is as long as it lives, and must not take back its removal, with whatever disk. Who
        # wants it back does not know its disk.
        row = msgspec.structs.replace(row, leaving=True)
    state.put(_key(command.node), encode(row))
    return Reply()


def drop_node(state: State, command: DropNode) -> Reply:
    row = _row(state, command.node)
    if row is not None:
        state.put(_key(command.node), encode(msgspec.structs.replace(row, leaving=True)))
    return Reply()


def forget_node(state: State, command: ForgetNode) -> Reply:
    row = _row(state, command.node)
    if row is not None and row.leaving:
        state.delete(_key(command.node))
    return Reply()


def _row(state: State, node: int) -> NodeRow | None:
    row = state.get(_key(node))
    return None if row is None else _decode_node(row)


def table(state: State) -> dict[int, NodeRow]:
    """node -> its row, in the order of their numbers; at most MAX_NODES. Empty in every slot but 0."""
    return {int.from_bytes(key[1:], "big"): _decode_node(row) for key, row in state.scan(b"N", after(b"N"))}
