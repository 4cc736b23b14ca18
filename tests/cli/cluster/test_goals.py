from tests.cli.cluster.worlds import cluster, node, slot, three
from wukong.cli.cluster.goals import EVERY_SLOT, joined, leads, left, replaced

OLD = (1001, 1002, 1003)


def test_joining_is_done_when_the_node_votes_in_every_slot() -> None:
    goal = joined(1004)
    learning = cluster(
        *map(node, OLD), node(1004, lag_entries=6), slots=[slot(0, 1001, (*OLD, 1004)), slot(1, 1001, OLD, (1004,))]
    )
    standing = goal(learning)
    assert (standing.done, standing.total, standing.is_reached) == (1, 2, False)
    assert standing.text == "node 1004 votes in 1 of 2 slots, learns in 1, 6 entries behind"
    done = cluster(*map(node, (*OLD, 1004)), slots=[slot(0, 1001, (*OLD, 1004)), slot(1, 1001, (*OLD, 1004))])
    assert goal(done).is_reached


def test_a_node_that_is_not_there_yet_is_waited_for_in_words() -> None:
    assert "start it with cluster.seed" in joined(1004)(three()).text


def test_leaving_is_done_when_no_slot_has_the_node() -> None:
    goal = left(1003)
    standing = goal(cluster(*map(node, OLD), slots=[slot(0, 1001, OLD), slot(1, 1001, (1001, 1002))]))
    assert (standing.done, standing.total, standing.text) == (1, 2, "node 1003 is out of 1 of 2 slots")
    learner = cluster(*map(node, OLD), slots=[slot(0, 1001, (1001, 1002), (1003,))])
    assert not goal(learner).is_reached
    assert goal(cluster(node(1003, state="leaving"), slots=[slot(0, 1001, (1001, 1002))])).is_reached


def test_replacing_is_done_when_one_has_come_and_the_other_has_gone() -> None:
    goal = replaced(1003, 1004)
    both = cluster(*map(node, (*OLD, 1004)), slots=[slot(0, 1001, (*OLD, 1004))])
    assert not goal(both).is_reached
    assert goal(both).text == "node 1003 is out of 0 of 1 slots"
    gone_first = cluster(*map(node, OLD), slots=[slot(0, 1001, (1001, 1002))])
    assert not goal(gone_first).is_reached
    assert goal(cluster(*map(node, (1001, 1002, 1004)), slots=[slot(0, 1001, (1001, 1002, 1004))])).is_reached


def test_a_slot_is_led_when_the_node_leads_it() -> None:
    goal = leads(1002, 0)
    assert goal(three()).text == "slot 0: node 1001 leads still"
    assert leads(1002, 1)(three()).is_reached


def test_every_slot_counts_once_led_even_if_the_balance_takes_it_back() -> None:
    goal = leads(1002, EVERY_SLOT)
    first = cluster(*map(node, OLD), slots=[slot(0, 1002, OLD), slot(1, 1001, OLD)])
    then = cluster(*map(node, OLD), slots=[slot(0, 1003, OLD), slot(1, 1002, OLD)])
    assert not goal(first).is_reached
    assert goal(then).is_reached


def test_an_empty_status_reaches_no_goal() -> None:
    nothing = cluster(slots=[])
    goals = (joined(1), left(1), replaced(1, 2), leads(1, 0), leads(1, EVERY_SLOT))
    assert not any(goal(nothing).is_reached for goal in goals)
