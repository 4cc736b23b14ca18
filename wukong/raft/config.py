"""Settings of the consensus layer. The defaults leave room for garbage collection and slow disks on shared machines."""

import msgspec

from wukong.errors import ConfigError


class RaftConfig(msgspec.Struct, frozen=True, kw_only=True):
    heartbeat_ms: int = 150
    """A leader with nothing to send still speaks this often."""
    election_min_ms: int = 700
    election_max_ms: int = 1400
    """A follower that heard no leader for a random time between these asks for an election.
    election_min_ms must be over three times heartbeat_ms. When the link to the leader breaks, as it does when its
    process is killed, the question comes after 5 to 25 % of election_min_ms; these times are for one that hangs."""
    quorum_timeout_ms: int = 1500
    """A leader that heard no majority for this long steps down."""
    tick_ms: int = 100
    """How often groups with peers look at the clock; heartbeats and elections come up to so much later."""
    max_entry_bytes: int = 8 << 20
    """Largest entry accepted by `propose`; a larger one raises ValueError."""
    message_bytes: int = 1 << 20
    """Entries sent in one message; a single larger entry still goes alone."""
    window_messages: int = 64
    window_bytes: int = 8 << 20
    """Entries under way to one follower and not answered; at either limit only heartbeats leave."""
    read_limit_count: int = 10_000
    """Reads waiting in one group for a round of ReadIndex; the next one fails at once."""
    entries_under_way: int = 1
    """Entries of a group proposed and not committed, with peers; at the limit proposals wait and share the next one."""
    round_ms: int = 20
    """With peers, proposals of all groups wait until those of the last round are committed, at most so long."""
    retain_bytes: int = 4 << 20
    """Entries a group with peers keeps behind its applied index for followers that were away."""
    pinned_bytes: int = 256 << 20
    """The most all groups together keep for members that are behind and connected, or were lately, or take a snapshot;
    each group its part of it. Beyond it they need a snapshot, or another one."""
    pinned_groups: int = 4
    """Groups copied from here at once; each may keep that part of pinned_bytes."""
    trim_bytes: int = 64 << 20
    """Bytes written to the log between two flushes of the state, which free the log behind them."""
    apply_slice_ms: float = 4.0
    """Longest time spent applying before the event loop gets its turn."""
    apply_queue_bytes: int = 16 << 20
    """Committed and not applied; above it nothing more is collected until it has been applied."""

    def __post_init__(self) -> None:
        """Raises ConfigError if the settings contradict each other."""
        faults = [f"{name}: must not be negative" for name in self.__struct_fields__ if getattr(self, name) < 0]
        if self.election_min_ms <= 3 * self.heartbeat_ms:
            faults.append("election_min_ms: must be over three times heartbeat_ms, or a lost heartbeat is an election")
        if self.election_max_ms <= self.election_min_ms:
            faults.append("election_max_ms: must be over election_min_ms, or votes split for ever")
        if self.quorum_timeout_ms < self.election_max_ms:
            faults.append("quorum_timeout_ms: must not be below election_max_ms")
        if faults:
            raise ConfigError(faults)
