"""The tests of the holes, run both ways: each fails when the measure that closes its hole is taken away.

They pass with the measure when they run under their own names; docs/design/raft.md, section 3, has the table.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.raft import (
    test_core,
    test_filter,
    test_log,
    test_rawnode,
    test_rawnode_leadership,
    test_rawnode_members,
    test_wal,
)
from tests.raft.ablations import ABLATIONS, without

Test = Callable[..., Any]

raw, members, leadership = test_rawnode, test_rawnode_members, test_rawnode_leadership

HOLES: list[tuple[str, Test]] = [
    ("log-matching", raw.test_1a_a_stale_batch_does_not_cut_entries_that_were_acknowledged),
    ("reset-generation", raw.test_1b_the_second_of_two_resets_does_not_start_a_second_resend),
    ("keep-next-index", raw.test_1c_what_is_under_way_is_not_sent_again_when_earlier_entries_are_acknowledged),
    ("answer-term", raw.test_2_an_answer_of_an_earlier_leadership_is_not_counted_in_a_later_one),
    ("hold-answers", raw.test_3a_a_follower_acknowledges_entries_only_when_they_are_on_its_disk),
    ("hold-answers", raw.test_3a_a_vote_leaves_only_when_it_is_on_disk),
    ("hold-answers", raw.test_3a_a_candidate_asks_for_votes_only_when_its_own_is_on_disk),
    ("own-durability", raw.test_3a_a_leader_counts_answers_only_for_entries_on_its_own_disk),
    ("own-durability", raw.test_3a_a_follower_applies_only_what_is_on_its_own_disk),
    ("own-durability", raw.test_3a_a_lone_voter_elects_itself_at_once_and_commits_only_what_is_on_disk),
    ("record-crc", test_wal.test_a_flipped_byte_before_a_valid_record_is_refused),
    ("record-crc", test_wal.test_a_flipped_byte_in_the_last_record_cuts_it),
    ("vote-records", raw.test_3c_a_node_that_restarts_does_not_vote_twice_in_a_term),
    ("no-stored-commit", raw.test_3f_after_a_restart_nothing_counts_as_committed_that_the_machine_has_not_applied),
    ("pre-vote", raw.test_4a_a_follower_that_was_away_does_not_depose_the_leader),
    ("vote-lease", test_filter.test_while_a_leader_is_heard_only_a_transfer_gets_a_vote_in_a_new_term),
    ("vote-lease", leadership.test_a_leader_that_one_follower_cannot_reach_stays_in_office),
    ("quorum-timeout", raw.test_4b_a_leader_that_hears_nobody_steps_down),
    ("term-hint", raw.test_4c_a_stale_leader_is_told_that_its_term_is_over),
    ("read-rounds", raw.test_5_a_deposed_leader_does_not_answer_reads),
    ("read-numbers", raw.test_5_an_answer_to_a_question_of_an_earlier_life_answers_no_other),
    ("read-own-commit", raw.test_5_a_new_leader_answers_reads_only_after_an_entry_of_its_own_is_committed),
    ("apply-enqueues", raw.test_6_commands_of_unknown_kind_pass_through_the_core_without_effect),
    ("verified-commit", raw.test_7a_a_heartbeat_does_not_commit_a_tail_that_was_not_verified),
    ("install-in-between", raw.test_7b_a_snapshot_that_was_not_installed_is_not_acknowledged),
    ("install-only-newer", raw.test_7c_an_old_snapshot_is_answered_and_thrown_away),
    ("install-keeps-tail", raw.test_7c_a_snapshot_keeps_the_tail_that_agrees_with_it),
    ("install-intent", raw.test_7d_a_crash_between_state_and_log_of_an_installation_is_finished_at_the_next_start),
    ("snapshot-pace", raw.test_7g_a_follower_behind_the_log_costs_one_heartbeat_per_period),
    ("one-change", raw.test_9a_a_second_membership_change_waits_until_the_first_is_committed),
    ("one-change", raw.test_9a_a_new_leader_changes_members_only_after_an_entry_of_its_own),
    ("members-in-log", raw.test_9b_after_a_restart_the_members_are_those_of_the_last_change_in_the_log),
    ("members-in-log", raw.test_9b_a_change_that_is_trimmed_is_remembered_and_one_that_is_truncated_is_undone),
    ("base-with-members", test_log.test_a_write_that_tears_anywhere_leaves_the_members_of_what_is_there),
    ("voters-only", raw.test_9c_strangers_and_repeated_votes_do_not_elect),
    ("campaign-members", raw.test_9c_a_leader_refuses_to_remove_itself_and_a_removed_node_does_not_campaign),
    ("conflict-start", raw.test_11a_a_divergent_tail_with_several_messages_under_way_is_replaced_in_a_few_rounds),
    ("no-pipe", test_core.test_64_groups_open_no_files_and_start_no_threads),
    ("window-restart", raw.test_a_window_that_was_full_is_open_in_the_next_leadership),
    ("disk-check", members.test_a_node_that_lost_its_disk_gives_no_vote),
    ("disk-check", members.test_a_node_that_lost_its_disk_does_not_stand_for_election),
    ("answer-disk", members.test_what_a_node_with_a_new_disk_acknowledges_is_not_counted_until_the_log_has_taken_it_in),
    ("answer-disk", members.test_a_node_that_lost_its_disk_does_not_help_a_deposed_leader),
    ("learner-counts", members.test_what_learners_hold_commits_nothing),
    ("voters-only", members.test_learners_do_not_keep_a_leader_in_office_nor_confirm_its_reads),
    ("voters-only", members.test_a_learner_does_not_stand_for_election_and_elects_nobody_by_its_vote),
    ("campaign-members", members.test_a_learner_does_not_stand_for_election_and_elects_nobody_by_its_vote),
    ("learner-progress", members.test_a_promoted_learner_keeps_its_progress_and_counts_from_then_on),
    ("learner-first", members.test_a_learner_becomes_a_voter_only_when_its_log_names_it),
    ("durable-commit", members.test_a_lone_voter_tells_learners_of_a_commit_only_when_it_is_on_its_disk),
    ("pre-vote-order", leadership.test_followers_that_notice_at_the_same_moment_elect_one_of_them_at_once),
    ("lost-link-haste", leadership.test_when_the_links_to_a_killed_leader_break_nobody_waits_for_the_election_time),
    ("lost-link-lease", leadership.test_when_the_links_to_a_killed_leader_break_nobody_waits_for_the_election_time),
    ("lost-link-reads", leadership.test_reads_that_were_asked_of_a_lost_leader_fail_at_once_and_new_ones_are_not_sent),
    ("transfer-waits", leadership.test_a_transfer_to_a_voter_that_is_behind_waits_for_it_and_loses_nothing),
]

WITH_ARGUMENTS: list[tuple[str, Test, dict[str, Any]]] = [
    (
        "state-fits-log",
        raw.test_7d_a_state_that_does_not_fit_the_log_is_refused,
        {"applied": (2, 1), "text": "begins behind index 3"},
    ),
    (
        "field-checks",
        test_filter.test_malformed_messages_are_counted_and_dropped,
        {"message": test_filter.append(8, 2, (b"\x00", 10, 3))},
    ),
]


@pytest.mark.parametrize(("measure", "test"), HOLES, ids=[f"{name}-{test.__name__[5:40]}" for name, test in HOLES])
def test_the_test_of_a_hole_fails_without_its_measure(measure: str, test: Test, tmp_path: Path) -> None:
    wants_path = "tmp_path" in test.__code__.co_varnames[: test.__code__.co_argcount]
    with without(measure), pytest.raises((Exception, pytest.fail.Exception)):
        test(**{"tmp_path": tmp_path} if wants_path else {})


@pytest.mark.parametrize(("measure", "test", "arguments"), WITH_ARGUMENTS, ids=[name for name, *_ in WITH_ARGUMENTS])
def test_a_case_of_a_test_fails_without_its_measure(measure: str, test: Test, arguments: dict[str, Any]) -> None:
    with without(measure), pytest.raises((Exception, pytest.fail.Exception)):
        test(**arguments)


def test_every_measure_has_a_test_that_misses_it() -> None:
    assert {name for name, *_ in HOLES} | {name for name, *_ in WITH_ARGUMENTS} == set(ABLATIONS)


def test_a_measure_is_back_afterwards() -> None:
    for measure in ABLATIONS:
        with without(measure):
            pass
    for _, test in HOLES:
        if not test.__code__.co_argcount:
            test()
