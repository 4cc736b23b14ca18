"""What a message between nodes is about. One byte; a kind is never given a second meaning."""

FACTS = 0
"""What a node says of itself. Links send and deliver it themselves; it is no kind for `Links.send`."""
RAFT = 1
"""Body: a message of the consensus layer, a map."""
FORWARD = 2
"""Body: bytes, one pack of commands for whoever leads the group."""
SNAPSHOT = 3
"""Body: a map, part of the transfer of a group's rows."""
CONTROL = 4
"""Body: a map, between the cluster layers of two nodes."""

KINDS = frozenset({RAFT, FORWARD, SNAPSHOT, CONTROL})
