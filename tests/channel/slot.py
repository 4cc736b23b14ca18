"""One slot on the store in memory, for tests that say what they do command by command."""

from tests.channel.world import START_MS
from wukong.channel.commands import Command, Pack, PutSettings, Reply, decode_entry, encode_entry, encode_pack
from wukong.channel.effects import Effect, FanOut, Propagate
from wukong.channel.ids import ChannelId
from wukong.channel.machine import Outcome, apply_pack
from wukong.channel.messages import messages_between
from wukong.channel.state import Settings, State, channel_part, encode
from wukong.store.memory import MemoryStore
from wukong.store.overlay import Overlay


class Slot:
    """A slot and one origin, node 1. now_ms is the origin's clock; effects are those since `effects` was last taken."""

    def __init__(self, slot: int = 1, **settings: object) -> None:
        self.slot = slot
        self.store = MemoryStore()
        self.overlay = Overlay(self.store)
        self.state = State(slot, self.overlay.view(b"slot"))
        self.index = 0
        self.now_ms = START_MS
        self._counters: dict[tuple[int, int], int] = {}
        if settings:
            self.do(PutSettings(encode(Settings(**settings))))  # type: ignore[arg-type]
            self.deliver()

    def apply(self, pack: Pack) -> Outcome:
        self.index += 1
        return apply_pack(self.state, self.index, pack)

    def do(self, command: Command, *, node: int = 1, incarnation: int = 1) -> Reply:
        """The reply of one command."""
        counter = self._counters.get((node, incarnation), 0) + 1
        self._counters[node, incarnation] = counter
        (reply,) = self.apply(Pack(node, incarnation, counter, counter - 1, self.now_ms, [command])).replies
        return reply

    def effects(self) -> list[Effect]:
        taken = list(self.state.effects)
        self.state.effects.clear()
        return taken

    def deliver(self) -> list[Effect]:
        """Bring what the effects so far ask to be copied back to this slot, which stands for every other; returns the
        other effects."""
        others: list[Effect] = []
        for effect in self.effects():
            if isinstance(effect, Propagate):
                (pack,) = decode_entry(encode_entry([encode_pack(1, 1, 1, 0, 0, [effect.command])]))
                self.do(pack.commands[0])
            else:
                others.append(effect)
        return others

    def restart(self) -> None:
        self.overlay.commit()
        self.state = State(self.slot, self.overlay.view(b"slot"))

    def rows(self) -> dict[bytes, bytes]:
        return dict(self.state.view.scan(b""))

    def pushed(self) -> list[str]:
        """Payloads of the fan-outs so far."""
        return [effect.message.payload.decode() for effect in self.state.effects if isinstance(effect, FanOut)]

    def texts(self, channel: ChannelId, *, is_cmd: bool = False) -> list[str]:
        """Payloads of the stored messages."""
        part = channel_part(channel)
        found = messages_between(self.state, part, is_cmd=is_cmd, first=1, last=1 << 40, limit=10_000)
        return [message.payload.decode() for message in found]
