"""What goes wrong in an episode. Every choice comes from the world's generator, so a seed is a schedule.

A fault ends by itself after a while, or with the episode, when `heal` ends everything. At most a minority is away at a
time, but for blackouts and cuts, which everybody survives or sits out.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tests.simulation import checkers
from wukong.raft.log import Change

if TYPE_CHECKING:
    from tests.simulation.server import Server
    from tests.simulation.world import World


# From the cut on: until silence counts, until it has lasted, until the last client is closed.
DEAF_AFTER_S = 11.0


class Faults:
    """The schedule of one world. weights: how often each kind comes, relative to the others."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.rng = world.rng
        self.count = 0
        self.until = 0.0  # the episode lasts until then at least

    def episode(self, world: "World") -> Iterator[float]:
        """Pauses between faults, in seconds."""
        rng, options = self.rng, world.options
        end = world.scheduler.now + options.episode_s
        yield rng.uniform(0.3, 1.0)
        kinds = [kind for kind, (_, applies) in self.KINDS.items() if applies(self)]
        weights = [self.KINDS[kind][0] for kind in kinds]
        while world.scheduler.now < max(end, self.until):
            kind = rng.choices(kinds, weights)[0]
            if getattr(self, kind.replace(" ", "_").replace("-", "_"))():
                self.count += 1
                world.counts[f"fault: {kind}"] += 1
                world.trace(kind, 0, 0, self.count)
            yield min(rng.expovariate(1 / options.fault_every_s), 6.0)
        self.heal()
        yield 0.1

    def heal(self) -> None:
        world = self.world
        network = world.network
        network.mend_all()
        network.slow.clear()
        network.flaps.clear()
        network.quick.clear()
        world.reboots_after_votes = 0
        network.delay_s = world.options.delay_s
        for disk in world.disks.values():
            disk.is_full = False
            disk.sync_s = world.options.sync_s
        for server in list(world.servers.values()):
            server.loop.resume()
        for node in world.ids:
            world.start(node)

    # -- helpers

    def _live(self) -> list[int]:
        """Nodes whose processes run."""
        return [node for node, server in sorted(self.world.servers.items()) if server.loop.state == "runs"]

    def _expendable(self) -> list[int]:
        """Those of which one may go and a majority stays."""
        live = self._live()
        if not self.world.members_complete() and len(live) < len(self.world.ids):
            return []
        return live if len(live) - 1 > len(self.world.ids) // 2 or len(self.world.ids) == 1 else []

    def _victim(self) -> int | None:
        """Half the time one that leads."""
        candidates = self._expendable()
        leading = [node for node in self.world.leaders_now() if node in candidates]
        if leading and self.rng.random() < 0.5:
            return self.rng.choice(leading)
        return self.rng.choice(candidates) if candidates else None

    def _pair(self) -> tuple[int, int]:
        a, b = self.rng.sample(self.world.ids, 2)
        return a, b

    def _later(self, seconds: float, act: Callable[..., object], *args: object) -> None:
        self.world.scheduler.after(seconds, act, *args)

    def _cut(self, source: int, target: int, seconds: float) -> None:
        """Cut a direction for so long; not shorter because of another fault, nor mended by its end."""
        network = self.world.network
        if network.cut_direction(source, target):
            self._later(seconds, self._mend, source, target, network.cut[source, target])

    def _mend(self, source: int, target: int, since: float) -> None:
        if self.world.network.cut.get((source, target)) == since:
            self.world.network.mend(source, target)

    def _cut_off(self, node: int, seconds: float, ways: str = "both") -> None:
        for other in self.world.ids:
            if other != node:
                if ways != "in":
                    self._cut(node, other, seconds)
                if ways != "out":
                    self._cut(other, node, seconds)

    # -- the network

    def cut_one_way(self) -> bool:
        a, b = self._pair()
        self._cut(a, b, self.rng.choice((0.1, 0.8, 4.0)))
        return True

    def cut_both_ways(self) -> bool:
        a, b = self._pair()
        seconds = self.rng.choice((0.3, 1.5, 5.0))
        self._cut(a, b, seconds)
        self._cut(b, a, seconds)
        return True

    def isolate(self) -> bool:
        """One node, often a leader, hears nobody, or is not heard, or both."""
        alone = self.rng.choice(self.world.leaders_now() or self.world.ids)
        self._cut_off(alone, self.rng.choice((1.0, 3.0, 7.0)), self.rng.choice(("in", "out", "both", "both")))
        return True

    def alone_for_long(self) -> bool:
        """One node is cut off until it must have let go of its clients."""
        world = self.world
        if world.scheduler.now < self.until:
            return False
        alone = self.rng.choice(world.ids)
        self.until = world.scheduler.now + DEAF_AFTER_S + 3.0
        for other in world.ids:
            world.network.mend(alone, other)
            world.network.mend(other, alone)
        self._cut_off(alone, DEAF_AFTER_S + 2.5)
        self._later(DEAF_AFTER_S + 2.0, self._nobody_is_deaf, alone, world.servers.get(alone))
        return True

    def _nobody_is_deaf(self, node: int, server: "Server | None") -> None:
        """Called when a node should have been alone for DEAF_AFTER_S; another fault may have ended that."""
        world = self.world
        if server is None or world.servers.get(node) is not server or server.state != "serving":
            return
        since = [world.network.cut.get((other, node)) for other in world.ids if other != node]
        alone_s = min((world.scheduler.now - at if at is not None else 0.0) for at in since)
        if (
            alone_s < DEAF_AFTER_S
            or server.loop.state != "runs"
            or server.loop.held_since > world.scheduler.now - alone_s
        ):
            return
        world.counts["looked for the deaf"] += 1
        connected = [
            device.device_id for device in world.devices if device.seen is not None and device.seen.node == node
        ]
        checkers.Deaf(world.violations).check(node, alone_s, connected)

    def lagging_follower(self) -> bool:
        """A node that leads nothing gets nothing for a while, long enough to need a snapshot, too short to say so."""
        world = self.world
        leading = world.leaders_now()
        followers = [node for node in self._live() if node not in leading] or self._live()
        if not followers:
            return False
        node = self.rng.choice(followers)
        self._cut_off(node, self.rng.uniform(1.5, 4.5))
        return True

    def reset_link(self) -> bool:
        for _ in range(self.rng.choice((1, 1, 3))):
            self.world.network.reset(*self._pair())
        return True

    def flapping_link(self) -> bool:
        pair = self._pair()
        self.world.network.flaps[pair] = self.rng.choice((0.1, 0.5))
        self.world.network.reset(*pair)
        self._later(self.rng.uniform(1.0, 4.0), self.world.network.flaps.pop, pair, None)
        return True

    def slow_link(self) -> bool:
        pair = self._pair()
        self.world.network.slow[pair] = self.rng.choice(((0.02, 0.2), (0.2, 0.6)))
        self._later(self.rng.uniform(1.0, 5.0), self.world.network.slow.pop, pair, None)
        return True

    def slow_network(self) -> bool:
        network = self.world.network
        network.delay_s = self.rng.choice(((0.005, 0.05), (0.02, 0.15)))
        self._later(self.rng.uniform(1.0, 4.0), setattr, network, "delay_s", self.world.options.delay_s)
        return True

    # -- processes

    def pause(self) -> bool:
        """The process stands still, its disk and its sockets do not."""
        node = self._victim()
        if node is None:
            return False
        server = self.world.servers[node]
        server.loop.hold()
        self._later(self.rng.choice((0.05, 0.6, 2.5, 4.0)), server.loop.resume)
        return True

    def kill(self) -> bool:
        node = self._victim()
        if node is None:
            return False
        self.world.end(node, told=True)
        self._later(self.rng.choice((0.05, 0.5, 3.0)), self.world.start, node)
        return True

    def power_loss(self) -> bool:
        node = self._victim()
        if node is None:
            return False
        self.world.end(node, told=False, power_lost=True)
        self._later(self.rng.choice((0.1, 1.0, 4.0)), self.world.start, node)
        return True

    def blackout(self) -> bool:
        """All at once; a majority is back first, the last leader perhaps not in it."""
        world = self.world
        leading = world.leaders_now()
        order = [node for node in world.ids if node not in leading] + leading
        if self.rng.random() < 0.3:
            self.rng.shuffle(order)
        for node in world.ids:
            world.end(node, told=False, power_lost=True)
        for place, node in enumerate(order):
            late = place > len(order) // 2
            self._later(self.rng.uniform(1.0, 3.0) if late else self.rng.uniform(0.05, 0.4), world.start, node)
        return True

    def reboot_follower(self) -> bool:
        """A follower is back at once without what it had not synced, and the leader is cut off: votes are tempting."""
        world = self.world
        leading = world.leaders_now()
        followers = [node for node in self._expendable() if node not in leading]
        if not followers or not leading:
            return False
        node = self.rng.choice(followers)
        world.end(node, told=False, power_lost=True)
        world.start(node)
        self._cut_off(self.rng.choice(leading), 2.0)
        return True

    def reboot_after_vote(self) -> bool:
        """A leader reboots, and so does whoever gives a vote in the election that follows, right after giving it."""
        world = self.world
        leading = [node for node in world.leaders_now() if node in self._expendable()]
        if not leading:
            return False
        world.reboots_after_votes = self.rng.choice((1, 2, 4))
        self._later(2.5, setattr, world, "reboots_after_votes", 0)
        node = self.rng.choice(leading)
        if self.rng.random() < 0.5:
            world.network.delay_s = self.rng.choice(((0.01, 0.06), (0.03, 0.1)))
            self._later(2.5, setattr, world.network, "delay_s", world.options.delay_s)
        world.network.quick.add(node)
        world.end(node, told=False, power_lost=True)
        world.start(node)
        return True

    def planned_restart(self) -> bool:
        node = self._victim()
        if node is None:
            return False
        self.world.stop_in_order(node)
        return True

    def rolling_restart(self) -> bool:
        """One after the other, each when the last one serves again."""
        world = self.world
        if len(self._live()) < len(world.ids) or world.network.cut:
            return False
        left = list(world.ids)
        self.rng.shuffle(left)

        def go_on() -> None:
            if not world.all_serve():
                if not world.gate_closed:
                    self._later(0.2, go_on)
                return
            if left:
                world.stop_in_order(left.pop())
                self._later(0.3, go_on)

        go_on()
        return True

    # -- disks

    def slow_disk(self) -> bool:
        disk = self.world.disks[self.rng.choice(self.world.ids)]
        disk.sync_s = self.rng.choice(((0.02, 0.2), (0.3, 1.2)))
        self._later(self.rng.uniform(0.5, 4.0), setattr, disk, "sync_s", self.world.options.sync_s)
        return True

    def disk_full(self) -> bool:
        node = self._victim()
        if node is None or self.world.servers[node].state != "serving":
            return False
        self.world.excused[node] = "disk full"
        self.world.disks[node].is_full = True
        return True

    # -- clocks

    def clock_jump(self) -> bool:
        node = self.rng.choice(self.world.ids)
        ms = self.rng.choice((-1, 1)) * self.rng.choice((50, 3_000, 3_600_000))
        if abs(ms) > 10_000 and self.rng.random() < 0.7:
            ms = ms // 100
        self.world.wall_ms[node] += ms
        if node in self.world.servers:
            self.world.servers[node].clock.jump(ms)
        return True

    # -- the cluster itself

    def leader_transfer(self) -> bool:
        world = self.world
        done = False
        for node in world.leaders_now():
            runtime = world.servers[node].runtime
            assert runtime is not None
            for slot in range(world.options.slots):
                others = [member.node for member in runtime.members(slot) if member.voter and member.node != node]
                if runtime.is_leader(slot) and others and self.rng.random() < 0.6:
                    world.servers[node].loop.call_soon(runtime.transfer, slot, self.rng.choice(others))
                    done = True
        return done

    def member_removed(self) -> bool:
        """A voter goes out of a slot; the cluster's control takes it in again, as a learner first."""
        world = self.world
        if not world.members_complete():
            return False  # with a lost disk among those who stay, nobody could ever bring a majority together
        for node in world.leaders_now():
            server = world.servers[node]
            assert server.runtime is not None
            for slot in range(world.options.slots):
                members = server.runtime.members(slot)
                if server.runtime.is_leader(slot) and len(members) == len(world.ids) > 2:
                    gone = self.rng.choice([member for member in members if member.node != node])
                    server.loop.call_soon(self._change, server, slot, Change("rem", gone.node, gone.disk))
                    return True
        return False

    def _change(self, server: "Server", slot: int, change: Change) -> None:
        assert server.runtime is not None
        # The process may have stood still meanwhile, and another one lost its disk.
        complete = self.world.members_complete()
        if complete and server.runtime.is_leader(slot) and server.runtime.change_members(slot, change):
            self.world.counts["members changed by hand"] += 1

    def disk_lost(self) -> bool:
        """A node is back with an empty disk, under its old number."""
        world = self.world
        if len(world.ids) < 3 or not world.all_serve() or not world.members_complete() or world.network.cut:
            return False
        node = self.rng.choice(world.ids)
        world.lose_disk(node)
        self._later(self.rng.choice((0.05, 1.0)), world.start, node)
        return True

    def disk_lost_behind_a_cut(self) -> bool:
        """One follower lags behind a cut; the other one, which has everything, loses its disk, and the leader cannot be
        heard. The one that lags must not win with the vote of an empty disk."""
        world = self.world
        leading = world.leaders_now()
        if len(world.ids) != 3 or len(leading) != 1 or not world.all_serve() or not world.members_complete():
            return False
        leader = leading[0]
        lagging, holder = self.rng.sample([node for node in world.ids if node != leader], 2)
        network = world.network
        behind_s, later_s = self.rng.uniform(0.3, 1.2), self.rng.uniform(1.0, 4.0)
        self._cut(leader, lagging, behind_s + later_s)
        self._cut(lagging, leader, behind_s + later_s)
        self._cut(holder, lagging, behind_s)
        self._cut(lagging, holder, behind_s)

        def turn() -> None:
            if world.gate_closed or not world.members_complete():
                return
            world.lose_disk(holder)
            network.quick.add(holder)
            world.start(holder)
            self._cut(leader, holder, later_s)
            self._cut(holder, leader, later_s)

        self._later(behind_s, turn)
        return True

    # -- clients

    def sockets_lost(self) -> bool:
        """Clients lose their network; the servers find out later."""
        for device in self.world.devices:
            if self.rng.random() < 0.4:
                device.leave(told=self.rng.random() < 0.3)
        return True

    def users_away(self) -> bool:
        device = self.rng.choice(self.world.devices)
        device.wants_online = False
        device.leave(told=self.rng.random() < 0.5)
        self._later(self.rng.uniform(2.0, 10.0), setattr, device, "wants_online", True)
        return True

    KINDS: "dict[str, tuple[float, Callable[[Faults], bool]]]" = {
        "cut one way": (8, lambda f: len(f.world.ids) > 1),
        "cut both ways": (8, lambda f: len(f.world.ids) > 1),
        "isolate": (8, lambda f: len(f.world.ids) > 1),
        "alone for long": (3, lambda f: len(f.world.ids) > 2),
        "lagging follower": (7, lambda f: len(f.world.ids) > 2),
        "reset link": (6, lambda f: len(f.world.ids) > 1),
        "flapping link": (4, lambda f: len(f.world.ids) > 1),
        "slow link": (5, lambda f: len(f.world.ids) > 1),
        "slow network": (3, lambda f: len(f.world.ids) > 1),
        "pause": (8, lambda f: True),
        "kill": (8, lambda f: True),
        "power loss": (8, lambda f: True),
        "blackout": (3, lambda f: True),
        "reboot follower": (5, lambda f: len(f.world.ids) > 2),
        "reboot after vote": (4, lambda f: len(f.world.ids) > 2),
        "planned restart": (5, lambda f: True),
        "rolling restart": (2, lambda f: True),
        "slow disk": (5, lambda f: True),
        "disk full": (2, lambda f: True),
        "clock jump": (4, lambda f: True),
        "leader transfer": (5, lambda f: len(f.world.ids) > 1),
        "member removed": (5, lambda f: len(f.world.ids) > 2),
        "disk lost": (8, lambda f: len(f.world.ids) > 2),
        "disk lost behind a cut": (10, lambda f: len(f.world.ids) == 3),
        "sockets lost": (6, lambda f: True),
        "users away": (6, lambda f: True),
    }
