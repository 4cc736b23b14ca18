"""The audience of a channel: members with a session here."""

import random

from wukong.channel.ids import ChannelId
from wukong.session.audience import Audience

A, B = ChannelId(2, "a"), ChannelId(2, "b")


def test_audience_keeps_the_order_of_joining_and_takes_nobody_twice() -> None:
    audience = Audience()
    for uid in ("u2", "u1", "u2"):
        audience.join(A, uid)
    assert list(audience.uids(A)) == ["u2", "u1"]


def test_forgetting_a_user_takes_him_out_of_all_his_channels() -> None:
    audience = Audience()
    audience.join(A, "u")
    audience.join(B, "u")
    audience.join(B, "v")
    audience.forget("u")
    assert list(audience.uids(A)) == []
    assert list(audience.uids(B)) == ["v"]
    assert list(audience.channels("u")) == []


def test_clearing_a_channel_leaves_other_channels_alone() -> None:
    audience = Audience()
    audience.join(A, "u")
    audience.join(B, "u")
    audience.clear(A)
    assert list(audience.uids(A)) == []
    assert list(audience.channels("u")) == [B]


def test_both_directions_agree_after_random_changes() -> None:
    seed = 7
    print("seed", seed)
    rnd = random.Random(seed)
    audience = Audience()
    truth: set[tuple[str, str]] = set()
    channels = [ChannelId(2, name) for name in "abcd"]
    uids = ["u1", "u2", "u3"]
    for _ in range(5_000):
        channel, uid = rnd.choice(channels), rnd.choice(uids)
        action = rnd.choice(("join", "join", "leave", "forget", "clear"))
        if action == "join":
            audience.join(channel, uid)
            truth.add((channel.id, uid))
        elif action == "leave":
            audience.leave(channel, uid)
            truth.discard((channel.id, uid))
        elif action == "forget":
            audience.forget(uid)
            truth = {pair for pair in truth if pair[1] != uid}
        else:
            audience.clear(channel)
            truth = {pair for pair in truth if pair[0] != channel.id}
        assert {(c.id, u) for c in channels for u in audience.uids(c)} == truth
        assert {(c.id, u) for u in uids for c in audience.channels(u)} == truth
