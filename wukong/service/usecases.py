"""All use cases over one replica, for whoever serves them: HTTP API, console, extensions of the client port."""

from wukong.dispatch.probes import Probes
from wukong.node.node import Node
from wukong.service.browse import Browse
from wukong.service.channels import Channels
from wukong.service.command_sync import CommandSync
from wukong.service.conversations import Conversations
from wukong.service.events import Events
from wukong.service.explain import Explain, Pushes
from wukong.service.imports import Imports
from wukong.service.messages import Messages
from wukong.service.overview import Overview
from wukong.service.replica import DEFAULT_TIMEOUT_MS, Replica
from wukong.service.retention import Retention
from wukong.service.users import Users


class UseCases:
    """timeout_ms: per change, see Replica. conversation_max_count: conversations in one answer without pages. pushes:
    what this node remembers of its pushes. probes: what times messages here."""

    def __init__(
        self,
        node: Node,
        overview: Overview,
        *,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
        conversation_max_count: int = 1_000,
        pushes: Pushes | None = None,
        probes: Probes | None = None,
    ) -> None:
        self.replica = Replica(node, timeout_ms=timeout_ms)
        self.channels = Channels(self.replica)
        self.messages = Messages(self.replica, probes)
        self.events = Events(self.replica)
        self.command_sync = CommandSync(self.replica)
        self.conversations = Conversations(self.replica, user_max_count=conversation_max_count)
        self.users = Users(self.replica)
        self.imports = Imports(self.replica)
        self.retention = Retention(self.replica)
        self.browse = Browse(self.replica)
        self.overview = overview
        self.explain = Explain(self.replica, pushes or Pushes.none(overview.node_id))
