"""Members follow the table: the plan for one group as a table of cases, and the loop around it."""

import asyncio
import logging
import random

import pytest

from tests.cluster.control_fakes import FakeClock, FakeFacts, FakeGroups, FakeReplica, row, rows, voters
from wukong.channel.commands import DropNode, ForgetNode, NodeRow, PutNode
from wukong.channel.nodes import MAX_NODES
from wukong.cluster.leads import Leads
from wukong.cluster.membership import Membership, OwnRow, Step, Transfer, outstanding, plan
from wukong.cluster.peers import Peers
from wukong.cluster.proposer import Proposer
from wukong.raft.log import Change, Member, after_change

LAST = 1_000
EVERYBODY = {1, 2, 3, 4, 5}
LEARNER_4 = Member(4, 40, False)


def planned(
    members: tuple[Member, ...],
    table: dict[int, NodeRow],
    *,
    match: dict[int, int] | None = None,
    connected: set[int] = EVERYBODY,
    self_node: int = 1,
) -> Step | None:
    return plan(
        members,
        table,
        self_node=self_node,
        match=match if match is not None else {member.node: LAST for member in members},
        last_index=LAST,
        connected=connected,
        caught_up_entries=10,
    )


def test_a_group_that_agrees_with_the_table_is_left_alone() -> None:
    assert planned(voters(1, 2, 3), rows(1, 2, 3)) is None


def test_members_without_a_row_are_left_alone() -> None:
    assert planned(voters(1, 2, 3), {}) is None
    assert planned((*voters(1, 2), Member(3, 31, False)), rows(1, 2)) is None


def test_a_node_that_is_missing_becomes_a_learner_first() -> None:
    assert planned(voters(1), rows(1, 2, 3)) == Change("learn", 2, 20)


def test_a_node_whose_disk_is_not_known_is_waited_for() -> None:
    assert planned(voters(1), {1: row(1), 2: row(2, disk=0)}) is None


def test_a_row_that_does_not_know_its_disk_yet_drives_nobody_out_and_lets_nobody_vote() -> None:
    assert planned(voters(1, 2), {1: row(1), 2: row(2, disk=0)}) is None
    assert planned((*voters(1, 2, 3), LEARNER_4), rows(1, 2, 3) | {4: row(4, disk=0)}) is None


@pytest.mark.parametrize(
    ("match", "connected", "step"),
    [
        (LAST, EVERYBODY, Change("add", 4, 40)),
        (LAST - 10, EVERYBODY, Change("add", 4, 40)),
        (LAST - 11, EVERYBODY, None),
        (0, EVERYBODY, None),
        (LAST, {1, 2, 3}, None),
    ],
)
def test_a_learner_becomes_a_voter_when_it_is_there_and_has_caught_up(
    match: int, connected: set[int], step: Step | None
) -> None:
    members = (*voters(1, 2, 3), LEARNER_4)
    held = {1: LAST, 2: LAST, 3: LAST, 4: match}
    assert planned(members, rows(1, 2, 3, 4), match=held, connected=connected) == step


def test_a_learner_with_another_disk_than_wanted_never_votes() -> None:
    members = (*voters(1, 2, 3), Member(4, 41, False))
    assert planned(members, rows(1, 2, 3, 4)) == Change("rem", 4, 41)


def test_a_node_with_a_new_disk_goes_out_under_the_old_one_first() -> None:
    table = rows(1, 2) | {3: row(3, disk=31)}
    assert planned(voters(1, 2, 3), table) == Change("rem", 3, 30)
    assert planned(voters(1, 2), table) == Change("learn", 3, 31)


def test_a_lost_disk_is_not_taken_out_while_those_who_stay_are_no_majority() -> None:
    table = rows(1, 2) | {3: row(3, disk=31)}
    assert planned(voters(1, 2, 3), table, connected={1, 3}) is None
    assert planned(voters(1, 2), rows(1) | {2: row(2, disk=21)}, connected={1, 2}) == Change("rem", 2, 20)


def test_a_leader_does_not_judge_its_own_disk() -> None:
    assert planned(voters(1, 2, 3), {1: row(1, disk=11), **rows(2, 3)}) is None


def test_a_leaving_node_waits_until_every_wanted_one_votes() -> None:
    table = rows(1, 2, 4) | {3: row(3, leaving=True)}
    assert planned(voters(1, 2, 3), table) == Change("learn", 4, 40)
    behind = {1: LAST, 2: LAST, 3: LAST, 4: 5}
    assert planned((*voters(1, 2, 3), LEARNER_4), table, match=behind) is None
    assert planned(voters(1, 2, 3, 4), table) == Change("rem", 3, 30)


def test_a_leaving_node_stays_while_those_who_stay_are_no_majority() -> None:
    table = rows(1, 2) | {3: row(3, leaving=True)}
    assert planned(voters(1, 2, 3), table, connected={1, 3}) is None


def test_a_leaving_learner_goes_at_once() -> None:
    table = rows(1, 2, 3) | {4: row(4, leaving=True), 5: row(5)}
    members = (*voters(1, 2, 3), LEARNER_4, Member(5, 50, False))
    behind = {1: LAST, 2: LAST, 3: LAST}
    assert planned(members, table, match=behind) == Change("rem", 4, 40)


def test_a_leaving_leader_hands_over_to_the_nearest_of_those_who_stay() -> None:
    table = {1: row(1, leaving=True), **rows(2, 3, 4)}
    near = {1: LAST, 2: LAST - 2, 3: LAST - 1, 4: LAST - 1}
    assert planned(voters(1, 2, 3, 4), table, match=near) == Transfer(3)
    assert planned(voters(1, 2, 3, 4), table, match=near, connected={1, 2, 4}) == Transfer(4)
    assert planned(voters(1, 2, 3, 4), table, match={1: LAST, 2: 5, 3: 5, 4: 5}) is None


def test_the_leader_leaves_after_the_others() -> None:
    table = {1: row(1, leaving=True), 2: row(2, leaving=True), **rows(3)}
    assert planned(voters(1, 2, 3), table) == Change("rem", 2, 20)


def test_the_last_voter_never_goes() -> None:
    assert planned(voters(1), {1: row(1, leaving=True)}) is None
    assert planned(voters(1, 2), {1: row(1, leaving=True), 2: row(2, leaving=True)}) == Change("rem", 2, 20)


def test_a_plan_carried_out_step_by_step_reaches_the_table_and_is_always_safe() -> None:
    """Random tables, members and connections: each step keeps a connected majority and at least one voter, nothing is
    done twice, and with everybody connected the members end as the table says."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(300):
        ids = range(1, rng.randint(2, 7))
        members = tuple(
            Member(node, 10 * node + rng.choice((0, 0, 1)), rng.random() < 0.7) for node in ids if rng.random() < 0.8
        )
        if not any(member.voter for member in members):
            members = voters(1)
        table = {
            node: row(node, disk=10 * node + rng.choice((0, 0, 1)), leaving=rng.random() < 0.3)
            for node in ids
            if rng.random() < 0.8
        }
        seen = set()
        leader = rng.choice([member.node for member in members if member.voter])
        if table and all(each.leaving for each in table.values()):
            continue
        for _ in range(100):
            if leader in table:  # a leader runs with the disk it is a member with
                disk = next(member.disk for member in members if member.node == leader)
                table[leader] = NodeRow("", disk, "", table[leader].leaving)
            step = planned(members, table, self_node=leader, connected=set(ids))
            if step is None:
                break
            assert (members, leader) not in seen, "it goes round"
            seen.add((members, leader))
            if isinstance(step, Transfer):
                assert any(member.node == step.node and member.voter for member in members)
                leader = step.node
                continue
            assert step.node != leader or step.kind != "rem"
            changed = after_change(members, step)
            assert changed != members
            members = changed
            assert any(member.voter for member in members)
        else:
            raise AssertionError("it does not end")
        have = {member.node: member for member in members}
        for node, each in table.items():
            if not each.leaving:
                assert have[node] == Member(node, each.disk, True)
            elif any(member.voter and member.node not in table for member in members) or any(
                not other.leaving for other in table.values()
            ):
                assert node not in have


def test_what_is_left_to_do_is_said_in_one_line() -> None:
    table = {1: row(1), 2: row(2, disk=21), 3: row(3), 4: row(4, disk=0), 5: row(5, leaving=True)}
    members = [(*voters(1, 2, 5), Member(3, 30, False)), voters(1, 2)]
    line = outstanding(members, table, {1, 2, 3})
    assert line == (
        "node 2 has a new disk: 2 of 2 slots name the old one; "
        "node 3 is joining: no voter yet in 2 of 2 slots, learning 1; "
        "node 4 is awaited: it has not connected yet; "
        "node 5 is leaving: still in 1 of 2 slots, waits until nodes 2, 3, 4 vote (not connected)"
    )
    assert outstanding([voters(1, 2, 3)], rows(1, 2, 3), {1}) == ""


class World:
    """One node's membership loop. `run` steps it as the controller does."""

    def __init__(self, members: tuple[Member, ...] = voters(1, 2, 3), *, count: int = 2) -> None:
        self.clock = FakeClock()
        self.groups = FakeGroups(1, count, members)
        self.replica = FakeReplica(count)
        self.peers = Peers(1, self.clock)
        self.leads = Leads(self.groups, self.clock)
        self.membership = Membership(
            cluster=77,
            own=OwnRow("10.0.0.1:11110", 10, ""),
            groups=self.groups,
            replica=self.replica,
            peers=self.peers,
            leads=self.leads,
            proposer=Proposer(self.replica, self.clock),
            clock=self.clock,
        )
        self.up: set[int] = set()
        for member in members:
            self.replica.put_row(member.node, row(member.node))
            if member.node != 1:
                self.link(member.node)

    def link(self, node: int, facts: FakeFacts | None = None) -> None:
        self.up.add(node)
        self.peers.connected(node)
        self.peers.told(node, facts or FakeFacts(10 * node, addr=f"10.0.0.{node}:11110"))

    def cut(self, node: int) -> None:
        self.up.discard(node)
        self.peers.disconnected(node)

    async def run(self, seconds: float) -> None:
        """Who is linked is heard all the time."""
        end = self.clock.seconds + seconds
        while self.clock.seconds < end:
            self.leads.look()
            self.membership.step()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.clock.seconds += 0.2
            for node in self.up:
                self.peers.heard(node)

    def proposed(self, kind: type) -> list[object]:
        return [command for _, command in self.replica.proposed if type(command) is kind]


async def test_a_joining_node_is_taken_in_by_whoever_it_spoke_to() -> None:
    world = World()
    world.groups[0].leader = world.groups[1].leader = 2
    # A stranger has no link from us: only its facts came.
    world.peers.told(4, FakeFacts(40, cluster=0, addr="10.0.0.4:11110", join=True))
    await world.run(1)
    assert world.replica.table[4] == row(4)
    assert world.groups[0].changes == [], "the leader is another node"


async def test_a_request_to_join_grows_old() -> None:
    world = World()
    world.replica.live = False
    world.peers.told(4, FakeFacts(40, addr="10.0.0.4:11110", join=True))
    await world.run(61)
    world.replica.live = True
    await world.run(3)
    assert 4 not in world.replica.table


async def test_a_node_that_does_not_ask_or_is_of_another_cluster_is_not_taken_in() -> None:
    world = World()
    world.link(4, FakeFacts(40, join=False))
    world.link(5, FakeFacts(50, cluster=78, join=True))
    await world.run(3)
    assert sorted(world.replica.table) == [1, 2, 3]


async def test_a_full_table_takes_nobody_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    for node in range(100, 100 + MAX_NODES - 3):
        world.replica.put_row(node, row(node, disk=0))
    world.link(4, FakeFacts(40, join=True))
    await world.run(5)
    assert 4 not in world.replica.table
    assert caplog.text.count("node 4 wants to join") == 1


async def test_a_joined_node_becomes_learner_then_voter_in_every_group() -> None:
    world = World()
    world.link(4, FakeFacts(40, addr="10.0.0.4:11110", join=True))
    await world.run(1)
    for group in world.groups.groups:
        assert group.members == (*voters(1, 2, 3), LEARNER_4)
        group.match[4] = 990
    await world.run(1)
    assert all(group.members == voters(1, 2, 3, 4) for group in world.groups.groups)
    assert all([change.kind for change in group.changes] == ["learn", "add"] for group in world.groups.groups)
    assert world.membership.job() == ""


async def test_a_change_that_is_not_taken_is_tried_again_soon_and_not_all_the_time() -> None:
    world = World()
    world.groups[0].accepts = False
    world.link(4, FakeFacts(40, addr="10.0.0.4:11110", join=True))
    await world.run(1)
    assert world.groups[0].changes == []
    world.groups[0].accepts = True
    await world.run(0.4)
    assert world.groups[0].changes == [Change("learn", 4, 40)]


async def test_a_row_follows_what_its_node_says() -> None:
    world = World()
    world.link(3, FakeFacts(30, addr="10.0.7.3:11110", api_url="http://three"))
    await world.run(1)
    assert world.replica.table[3] == NodeRow("10.0.7.3:11110", 30, "http://three")
    await world.run(5)
    assert len(world.proposed(PutNode)) == 1, "what is right is not written again"


async def test_the_row_of_a_node_that_was_moved_follows_before_anybody_reaches_it_there() -> None:
    world = World()
    world.cut(3)
    await world.run(5)
    world.peers.told(3, FakeFacts(30, addr="10.0.7.3:11110"))
    world.membership.wake()
    await world.run(1)
    assert world.replica.table[3] == NodeRow("10.0.7.3:11110", 30, "")


async def test_what_a_node_said_of_itself_long_ago_changes_no_row() -> None:
    world = World()
    world.cut(3)
    world.replica.live = False
    world.peers.told(3, FakeFacts(30, addr="10.0.7.3:11110"))
    await world.run(5)
    world.replica.live = True
    await world.run(3)
    assert world.replica.table[3] == row(3)


async def test_a_request_to_join_holds_though_no_link_of_ours_ever_came_up() -> None:
    world = World()
    await world.run(70)
    world.peers.told(4, FakeFacts(40, addr="10.0.0.4:11110", join=True))
    world.membership.wake()
    await world.run(1)
    assert world.replica.table[4] == row(4)


async def test_only_the_leader_of_the_first_slot_writes_what_others_say() -> None:
    world = World()
    world.groups[0].leader = 2
    world.link(3, FakeFacts(30, addr="10.0.7.3:11110"))
    await world.run(5)
    assert world.proposed(PutNode) == []


async def test_a_lost_disk_is_replaced_when_the_old_one_was_silent_for_long() -> None:
    world = World()
    world.cut(3)
    await world.run(11)
    world.link(3, FakeFacts(31, addr="10.0.0.3:11110"))
    await world.run(2)
    assert world.replica.table[3] == row(3, disk=31)
    assert [change.kind for change in world.groups[0].changes] == ["rem", "learn"]
    assert Member(3, 31, False) in world.groups[0].members


async def test_a_leaving_node_stays_leaving_whatever_it_says_of_itself() -> None:
    world = World()
    world.replica.slots[0].do(DropNode(3))
    world.groups[1].leader = 2
    world.cut(3)
    await world.run(20)
    world.link(3, FakeFacts(31, addr="10.0.0.33:11110"))
    await world.run(3)
    assert world.replica.table[3].leaving
    world.replica.put_row(1, NodeRow("old:1", 10, ""))
    world.replica.slots[0].do(DropNode(1))
    await world.run(3)
    assert world.proposed(PutNode) == []


async def test_two_processes_under_one_id_do_not_push_each_other_out(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    await world.run(1)
    for _ in range(20):
        world.link(3, FakeFacts(31, addr="10.0.0.33:11110"))
        await world.run(1)
        world.link(3)
        await world.run(1)
    assert world.replica.table[3] == row(3)
    world.link(3, FakeFacts(31))
    assert "node 3 came with a new disk" in world.membership.job()
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert 2 <= len(errors) <= 5
    assert "stop one of them" in errors[0].message


async def test_a_put_that_is_under_way_is_not_repeated_and_a_failed_one_waits_a_second() -> None:
    world = World()
    world.replica.hold = True
    world.link(4, FakeFacts(40, join=True))
    await world.run(5)
    assert len(world.proposed(PutNode)) == 1
    world.replica.release()
    await world.run(1)
    assert 4 in world.replica.table


async def test_a_node_keeps_its_own_row_right_once_it_is_live() -> None:
    world = World()
    world.replica.put_row(1, NodeRow("old:1", 10, ""))
    world.replica.live = False
    await world.run(3)
    assert world.replica.table[1].addr == "old:1"
    world.replica.live = True
    await world.run(3)
    assert world.replica.table[1] == row(1)


async def test_a_node_with_a_new_disk_does_not_take_its_row_over_itself() -> None:
    world = World()
    world.groups[0].leader = 2
    world.replica.put_row(1, row(1, disk=9))
    await world.run(5)
    assert world.replica.table[1] == row(1, disk=9)


async def test_a_node_that_was_taken_out_does_not_put_itself_back() -> None:
    world = World(voters(2, 3))
    await world.run(5)
    assert 1 not in world.replica.table


async def test_a_leaving_node_goes_and_is_forgotten_when_no_log_names_it() -> None:
    world = World(voters(1, 2, 3, 4))
    world.replica.slots[0].do(DropNode(4))
    await world.run(1)
    assert all(group.members == voters(1, 2, 3) for group in world.groups.groups)
    await world.run(5)
    assert world.proposed(ForgetNode) == [ForgetNode(4)]
    assert 4 not in world.replica.table
    assert world.replica.barriers == 1


async def test_a_node_is_not_forgotten_before_a_barrier_proved_that_it_left() -> None:
    world = World(voters(1, 2, 3, 4))
    world.replica.slots[0].do(DropNode(4))
    world.replica.behind = True
    await world.run(9)
    assert 4 in world.replica.table
    world.replica.behind = False
    await world.run(3)
    assert 4 not in world.replica.table


async def test_a_node_whose_removal_is_not_committed_is_not_forgotten() -> None:
    world = World(voters(1, 2, 3, 4))
    world.replica.slots[0].do(DropNode(4))
    world.groups[1].applied_members = voters(1, 2, 3, 4)
    await world.run(9)
    assert world.groups[1].members == voters(1, 2, 3)
    assert 4 in world.replica.table
    world.groups[1].applied_members = None
    await world.run(3)
    assert 4 not in world.replica.table


async def test_a_node_that_is_still_in_one_log_is_not_forgotten() -> None:
    world = World(voters(1, 2, 3, 4))
    world.groups[1].leader = 2
    world.replica.slots[0].do(DropNode(4))
    await world.run(9)
    assert world.groups[0].members == voters(1, 2, 3)
    assert 4 in world.replica.table


async def test_a_removed_node_that_would_ask_to_join_again_is_forgotten_only_when_it_is_gone() -> None:
    world = World(voters(1, 2, 3, 4))
    world.link(4, FakeFacts(40, join=True))
    world.replica.slots[0].do(DropNode(4))
    await world.run(9)
    assert world.replica.table[4].leaving
    assert "stop it" in world.membership.job()
    world.cut(4)
    await world.run(5)
    assert 4 not in world.replica.table
    world.link(4, FakeFacts(40, addr="10.0.0.4:11110", join=True))
    await world.run(1)
    assert world.replica.table[4] == row(4), "started again it asks again"


async def test_a_node_that_left_and_still_runs_can_be_wanted_again() -> None:
    world = World(voters(1, 2, 3, 4))
    world.replica.slots[0].do(DropNode(4))
    await world.run(5)
    assert 4 not in world.replica.table
    world.replica.put_row(4, row(4, disk=0))
    await world.run(1)
    assert world.replica.table[4] == row(4)
    assert Member(4, 40, False) in world.groups[0].members


async def test_a_leaving_leader_gives_its_groups_away_and_is_then_nobody_s_business_here() -> None:
    world = World()
    world.replica.slots[0].do(DropNode(1))
    await world.run(1)
    assert [group.leader for group in world.groups.groups] == [2, 2]
    assert all(Change("rem", 1, 10) not in group.changes for group in world.groups.groups)
