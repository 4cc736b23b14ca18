import msgspec
import pytest

from tests.cli.cluster.worlds import cluster, node, slot, three
from wukong.cli.cluster.status import MAX_NAMED, ClusterStatus, headline, losses_survived, troubles


def test_a_cluster_that_is_well_has_no_troubles() -> None:
    assert troubles(three()) == []
    assert headline(three()).endswith("3 nodes, 3 vote in all of 4 slots; survives the loss of one.")


@pytest.mark.parametrize(("voters", "losses"), [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (7, 3)])
def test_the_losses_survived_are_those_that_leave_a_majority(voters: int, losses: int) -> None:
    assert losses_survived(voters) == losses


def test_a_slot_without_a_leader_is_the_first_trouble() -> None:
    found = troubles(cluster(*map(node, (1, 2, 3)), slots=[slot(0, 1, (1, 2, 3)), slot(5, 0, (1, 2, 3))]))
    assert found == ["no leader: slot 5; what belongs there is answered with 503"]


def test_many_slots_are_counted_instead_of_named() -> None:
    slots = [slot(number, 0, (1, 2, 3)) for number in range(MAX_NAMED + 1)]
    assert troubles(cluster(*map(node, (1, 2, 3)), slots=slots))[0].startswith("no leader: 9 slots;")


def test_a_voter_that_does_not_answer_is_told_and_that_one_more_is_too_many() -> None:
    found = troubles(cluster(node(1), node(2), node(3, connected=False), slots=[slot(0, 1, (1, 2, 3))]))
    assert found == ["node 3 (host3:11110) does not answer", "one more loss is too many: slot 0"]


def test_of_five_one_may_be_away_and_another_one_still_may_fail() -> None:
    nodes = [node(each, connected=each != 5) for each in range(1, 6)]
    assert troubles(cluster(*nodes, slots=[slot(0, 1, range(1, 6))])) == ["node 5 (host5:11110) does not answer"]


def test_a_cluster_of_two_is_not_blamed_for_what_it_cannot_do() -> None:
    assert troubles(cluster(node(1), node(2), slots=[slot(0, 1, (1, 2))])) == []


def test_a_node_that_was_removed_may_be_away() -> None:
    gone = node(4, connected=False, state="leaving", health="no leader is heard")
    assert troubles(cluster(*map(node, (1, 2, 3)), gone, slots=[slot(0, 1, (1, 2, 3))])) == []


def test_a_member_that_sends_its_clients_away_says_why() -> None:
    found = troubles(cluster(node(1), node(2), node(3, health="lags"), slots=[slot(0, 1, (1, 2, 3))]))
    assert found == ["node 3 serves no clients: lags"]


def test_a_long_way_behind_is_a_trouble_and_a_short_one_is_not() -> None:
    nodes = (node(1), node(2, lag_entries=5), node(3, lag_entries=12_345))
    assert troubles(cluster(*nodes, slots=[slot(0, 1, (1, 2, 3))])) == ["node 3 is 12,345 entries behind"]


def test_settings_that_differ_are_told_with_whose_they_are() -> None:
    differ = ["token_auth_on", "1002:manager_uid"]
    found = troubles(cluster(*map(node, (1, 2, 3)), slots=[slot(0, 1, (1, 2, 3))], settings_differ=differ))
    assert found == [
        "configuration differs from the cluster's settings, which count: "
        "token_auth_on (node 1001), manager_uid (node 1002)"
    ]


def test_versions_that_differ_are_told() -> None:
    found = troubles(cluster(node(1), node(2, version="2"), node(3), slots=[slot(0, 1, (1, 2, 3))]))
    assert found == ["different versions run: 1, 2"]


def test_only_who_votes_everywhere_is_counted() -> None:
    status = cluster(*map(node, (1, 2, 3)), slots=[slot(0, 1, (1, 2, 3)), slot(1, 1, (1, 2), (3,))])
    assert status.voters() == {1, 2}
    assert cluster(slots=[]).voters() == set()


def test_an_answer_with_more_and_with_less_is_understood() -> None:
    text = b'{"cluster":"a1","nodes":[{"id":1,"new":true}],"slots":[{"id":0,"members":[{"node":1,"disk":"f"}]}],"x":1}'
    status = msgspec.json.decode(text, type=ClusterStatus)
    assert (status.nodes[0].state, status.slots[0].members[0].match, status.job) == ("unknown", None, "")
