import asyncio
from random import Random

import pytest

from tests.client.small_server import GROUP, PERSON, Session, SmallServer, running_server
from wukong.client import (
    Backoff,
    Client,
    ClientClosed,
    ClientLimits,
    ConnectFailed,
    Event,
    GaveUp,
    Kicked,
    LoginRefused,
    Message,
    SendRefused,
    SendTimeout,
    State,
    StateChange,
    connect,
)
from wukong.protocol.packets import RED_DOT, SETTING_RECEIPT, Send

QUICK = Backoff(base_s=0.001, cap_s=0.01)


def place(server: SmallServer, transport: str) -> str:
    return server.tcp if transport == "tcp" else server.ws


async def texts(client: Client, count: int) -> list[str]:
    return [(await anext(client)).payload.decode() for _ in range(count)]


async def group(server: SmallServer, *members: str) -> str:
    server.channel("g", GROUP).members.update(members)
    return "g"


# -- sending and receiving --


async def test_a_message_between_two_people_arrives_with_everything_it_was_sent_with(
    server: SmallServer, transport: str
) -> None:
    async with connect(place(server, transport), "alice") as alice, connect(place(server, transport), "bob") as bob:
        sent = await alice.send(
            "bob", PERSON, "hello", client_msg_no="n1", expire=60, topic="tea", setting=SETTING_RECEIPT
        )
        message = await anext(bob)
    assert (sent.message_seq, sent.client_msg_no) == (1, "n1")
    assert message == Message(
        channel_id="alice",
        channel_type=PERSON,
        from_uid="alice",
        message_seq=1,
        message_id=sent.message_id,
        client_msg_no="n1",
        timestamp=1_700_000_000,
        payload=b"hello",
        flags=RED_DOT,
        setting=SETTING_RECEIPT | 0x08,
        topic="tea",
        expire=60,
    )


async def test_a_client_works_with_servers_that_do_not_encrypt() -> None:
    async with running_server(encryption=False) as server, connect(server.tcp, "a") as a, connect(server.tcp, "b") as b:
        await a.send("b", PERSON, "plain")
        assert (await anext(b)).payload == b"plain"
    assert server.sends[0].payload == b"plain"


async def test_payloads_are_bytes_text_or_a_mapping(server: SmallServer) -> None:
    async with connect(server.tcp, "a") as a, connect(server.tcp, "b") as b:
        await a.send("b", PERSON, b"\x00\xff")
        await a.send("b", PERSON, "grün")
        await a.send("b", PERSON, {"type": 1, "content": "hi"})
        received = [await anext(b) for _ in range(3)]
    assert [message.payload for message in received[:2]] == [b"\x00\xff", "grün".encode()]
    assert [message.text for message in received[1:]] == ["grün", "hi"]


async def test_flags_travel_and_messages_that_are_not_stored_have_no_seq(server: SmallServer) -> None:
    async with connect(server.tcp, "a") as a, connect(server.tcp, "b") as b:
        sent = await a.send("b", PERSON, "x", red_dot=False, no_persist=True)
        message = await anext(b)
        command = await a.send("b", PERSON, "y", sync_once=True)
        received_command = await anext(b)
    assert sent.message_seq == message.message_seq == 0
    assert (message.no_persist, message.red_dot) == (True, False)
    assert command.message_seq == received_command.message_seq == 1
    assert received_command.sync_once


async def test_calls_made_together_leave_in_the_order_in_which_they_were_made(server: SmallServer) -> None:
    await group(server, "a", "b")
    async with connect(server.tcp, "a", limits=ClientLimits(in_flight_count=3)) as a, connect(server.tcp, "b") as b:
        answers = await asyncio.gather(*(a.send("g", GROUP, str(each)) for each in range(50)))
        assert await texts(b, 50) == [str(each) for each in range(50)]
    assert [answer.message_seq for answer in answers] == list(range(1, 51))


async def test_no_more_sends_are_in_flight_than_the_limit_allows(server: SmallServer) -> None:
    server.on_send = lambda session, packet: None
    async with connect(server.tcp, "a", limits=ClientLimits(in_flight_count=2)) as a:
        calls = [asyncio.create_task(a.send("b", PERSON, str(each), timeout=0.3)) for each in range(5)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert len(server.sends) == 2
    assert all(isinstance(result, SendTimeout) for result in results)


async def test_a_refusal_says_why(server: SmallServer) -> None:
    server.on_send = lambda session, packet: (0, 3)
    async with connect(server.tcp, "a") as a:
        with pytest.raises(SendRefused, match="ReasonSubscriberNotExist") as caught:
            await a.send("g", GROUP, "x", client_msg_no="n")
    assert (caught.value.reason, caught.value.client_msg_no) == (3, "n")


async def test_without_an_answer_a_send_ends_and_can_be_repeated_with_its_number(server: SmallServer) -> None:
    server.on_send = lambda session, packet: None
    async with connect(server.tcp, "a") as a:
        with pytest.raises(SendTimeout) as caught:
            await a.send("b", PERSON, "x", timeout=0.05)
        server.on_send = None
        first = await a.send("b", PERSON, "x", client_msg_no=caught.value.client_msg_no)
        again = await a.send("b", PERSON, "x", client_msg_no=caught.value.client_msg_no)
    assert first == again


@pytest.mark.parametrize(
    "wrong",
    [
        {"payload": b"x" * 32_768},
        {"channel_id": "x" * 40_000},
        {"channel_type": 256},
        {"expire": -1},
        {"topic": "x" * 40_000},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_what_does_not_fit_the_wire_is_refused_before_it_is_sent(
    server: SmallServer, wrong: dict[str, object]
) -> None:
    fields: dict[str, object] = {"channel_id": "b", "channel_type": PERSON, "payload": b"x"}
    async with connect(server.tcp, "a") as a:
        with pytest.raises(ValueError, match=r"limit|fit"):
            await a.send(**(fields | wrong))  # type: ignore[arg-type]
        assert (await a.send("b", PERSON, "next")).message_seq == 1
    assert len(server.sends) == 1


# -- acknowledgements --


async def test_a_message_is_acknowledged_when_the_application_takes_it(server: SmallServer, transport: str) -> None:
    await group(server, "b")
    async with connect(place(server, transport), "b") as b:
        first = await server.store("g", GROUP, "x", b"1")
        await server.store("g", GROUP, "x", b"2")
        await anext(b)
        await server.until(lambda: len(server.recvacks) == 1)
        await (await server.until_logged_in("b")).write_raw(b"\x80")
        await asyncio.sleep(0)
        assert [(ack.message_id, ack.message_seq) for ack in server.recvacks] == [(first.message_id, 1)]
        await anext(b)
        await server.until(lambda: len(server.recvacks) == 2)


async def test_acknowledgement_at_receipt_does_not_wait_for_the_application(server: SmallServer) -> None:
    await group(server, "b")
    async with connect(server.tcp, "b", ack="received"):
        await server.store("g", GROUP, "x", b"1")
        await server.until(lambda: len(server.recvacks) == 1)


async def test_an_acknowledgement_repeats_the_flags_of_the_message(server: SmallServer) -> None:
    await group(server, "b")
    async with connect(server.tcp, "b", ack="received"):
        await server.store("g", GROUP, "x", b"1", flags=4)
        await server.until(lambda: len(server.recvacks) == 1)
    assert server.recvacks[0].flags == 4


async def test_what_was_taken_is_acknowledged_even_if_the_client_is_closed_at_once(server: SmallServer) -> None:
    await group(server, "b")
    async with connect(server.tcp, "b") as b:
        await server.store("g", GROUP, "x", b"1")
        await anext(b)
    await server.until(lambda: len(server.recvacks) == 1)


# -- order, repetitions, gaps --


async def test_a_message_that_is_pushed_twice_is_seen_once_and_acknowledged_twice(server: SmallServer) -> None:
    await group(server, "b")
    channel = server.channel("g", GROUP)
    async with connect(server.tcp, "b") as b:
        first = await server.store("g", GROUP, "x", b"1")
        await server.fan_out(channel, first)
        await server.store("g", GROUP, "x", b"2")
        assert await texts(b, 2) == ["1", "2"]
        await server.until(lambda: len(server.recvacks) == 3)


async def test_messages_that_overtake_each_other_are_put_in_order(server: SmallServer) -> None:
    await group(server, "b")
    channel = server.channel("g", GROUP)
    async with connect(server.tcp, "b", positions={("g", GROUP): 0}, gap_wait_s=60) as b:
        server.silent_for = {"b"}
        rows = [await server.store("g", GROUP, "x", str(each).encode()) for each in range(4)]
        server.silent_for = set()
        for row in (rows[1], rows[3], rows[2], rows[0]):
            await server.fan_out(channel, row)
        assert await texts(b, 4) == ["0", "1", "2", "3"]


async def test_a_gap_is_filled_by_the_sync_provider(server: SmallServer, transport: str) -> None:
    await group(server, "b")
    sync = server.provider("b")
    async with connect(place(server, transport), "b", sync=sync, gap_wait_s=0.01) as b:
        await server.store("g", GROUP, "x", b"1")
        server.silent_for = {"b"}
        for each in range(2, 6):
            await server.store("g", GROUP, "x", str(each).encode())
        server.silent_for = set()
        await server.store("g", GROUP, "x", b"6")
        received = [await anext(b) for _ in range(6)]
    assert [message.payload for message in received] == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert [message.synced for message in received] == [False, True, True, True, True, False]


async def test_a_gap_without_a_provider_is_given_up_after_a_while(server: SmallServer) -> None:
    await group(server, "b")
    async with connect(server.tcp, "b", gap_wait_s=0.01) as b:
        await server.store("g", GROUP, "x", b"1")
        server.silent_for = {"b"}
        await server.store("g", GROUP, "x", b"2")
        server.silent_for = set()
        await server.store("g", GROUP, "x", b"3")
        assert await texts(b, 2) == ["1", "3"]


async def test_channels_do_not_wait_for_each_other(server: SmallServer) -> None:
    await group(server, "b")
    sync = server.provider("b")
    async with connect(server.tcp, "b", sync=sync, positions={("g", GROUP): 1}, gap_wait_s=0) as b:
        await b.wait_for(State.SYNCED)
        sync.gate.clear()
        server.silent_for = {"b"}
        await server.store("g", GROUP, "x", b"1")
        await server.store("g", GROUP, "x", b"2")
        server.silent_for = set()
        await server.store("g", GROUP, "x", b"3")
        await server.store("b", PERSON, "other", b"elsewhere")
        assert await texts(b, 1) == ["elsewhere"]
        sync.gate.set()
        assert await texts(b, 2) == ["2", "3"]


async def test_own_messages_are_no_gaps(server: SmallServer) -> None:
    await group(server, "a", "b")
    sync = server.provider("b")
    async with connect(server.tcp, "a") as a, connect(server.tcp, "b", sync=sync) as b:
        for each in range(10):
            await a.send("g", GROUP, f"a{each}")
            await b.send("g", GROUP, f"b{each}")
        assert await texts(b, 10) == [f"a{each}" for each in range(10)]
        assert b.positions == {("g", GROUP): 20}
    assert server.pulls == []


async def test_a_message_of_the_users_other_device_is_delivered(server: SmallServer) -> None:
    async with connect(server.tcp, "a", device_id="phone") as phone, connect(server.tcp, "a", device_id="pc") as pc:
        await phone.send("b", PERSON, "from the phone")
        message = await anext(pc)
    assert (message.from_uid, message.channel_id, message.payload) == ("a", "b", b"from the phone")


async def test_an_unreadable_message_is_not_acknowledged_and_found_by_sync(server: SmallServer) -> None:
    await group(server, "b")
    sync = server.provider("b")
    async with connect(server.tcp, "b", sync=sync, positions={("g", GROUP): 0}, gap_wait_s=0) as b:
        await b.wait_for(State.SYNCED)
        session = await server.until_logged_in("b")
        cipher = session.protocol.cipher
        session.protocol.cipher = None
        await server.store("g", GROUP, "x", b"1")
        session.protocol.cipher = cipher
        await server.store("g", GROUP, "x", b"2")
        assert await texts(b, 2) == ["1", "2"]
        await server.until(lambda: len(server.recvacks) == 1)


# -- reconnecting --


async def test_after_a_lost_connection_the_client_comes_back_and_misses_nothing(
    server: SmallServer, transport: str
) -> None:
    await group(server, "b")
    sync = server.provider("b")
    async with connect(place(server, transport), "b", sync=sync, backoff=QUICK) as b:
        await server.store("g", GROUP, "x", b"1")
        assert await texts(b, 1) == ["1"]
        session = await server.until_logged_in("b")
        server.silent_for = {"b"}
        session.cut()
        for each in range(2, 500):
            await server.store("g", GROUP, "x", str(each).encode())
        server.silent_for = set()
        assert await texts(b, 498) == [str(each) for each in range(2, 500)]
    assert len(server.connects) == 2


async def test_a_channel_that_appeared_while_away_begins_at_its_read_position(server: SmallServer) -> None:
    sync = server.provider("b")
    async with connect(server.tcp, "b", sync=sync, backoff=QUICK) as b:
        session = await server.until_logged_in("b")
        await b.wait_for(State.SYNCED)
        server.silent_for = {"b"}
        session.cut()
        for each in range(1, 8):
            await server.store("g", GROUP, "x", str(each).encode())
        await group(server, "b")
        sync.read_seqs["g", GROUP] = 5
        assert await texts(b, 2) == ["6", "7"]


async def test_a_live_message_of_a_new_channel_waits_for_the_missed_ones_before_it(server: SmallServer) -> None:
    await group(server, "b")
    sync = server.provider("b")
    async with connect(server.tcp, "b", sync=sync, backoff=QUICK, gap_wait_s=0) as b:
        session = await server.until_logged_in("b")
        await b.wait_for(State.SYNCED)
        sync.gate.clear()
        server.silent_for = {"b"}
        session.cut()
        await server.store("g", GROUP, "x", b"1")
        await server.store("g", GROUP, "x", b"2")
        await server.until_logged_in("b", 2)
        server.silent_for = set()
        await server.store("g", GROUP, "x", b"3")
        sync.gate.set()
        assert await texts(b, 3) == ["1", "2", "3"]


async def test_history_is_not_delivered_to_a_client_that_begins_now(server: SmallServer) -> None:
    await group(server, "b")
    await server.store("g", GROUP, "x", b"old")
    async with connect(server.tcp, "b", sync=server.provider("b")) as b:
        await b.wait_for(State.SYNCED)
        await server.store("g", GROUP, "x", b"new")
        assert await texts(b, 1) == ["new"]


async def test_what_is_stored_between_the_snapshot_and_the_login_is_delivered(server: SmallServer) -> None:
    await group(server, "b")
    await server.store("g", GROUP, "x", b"old")
    sync = server.provider("b")
    channels = sync.channels

    async def channels_then_message() -> object:
        heads = await channels()
        if sync.calls_count == 1:
            await server.store("g", GROUP, "x", b"in between")
        return heads

    sync.channels = channels_then_message  # type: ignore[method-assign, assignment]
    async with connect(server.tcp, "b", sync=sync) as b:
        assert await texts(b, 1) == ["in between"]


async def test_unread_messages_are_delivered_to_a_client_that_asks_for_them(server: SmallServer) -> None:
    await group(server, "b")
    for each in range(1, 5):
        await server.store("g", GROUP, "x", str(each).encode())
    sync = server.provider("b")
    sync.read_seqs["g", GROUP] = 2
    async with connect(server.tcp, "b", sync=sync, start="unread") as b:
        assert await texts(b, 2) == ["3", "4"]


async def test_a_given_position_decides_where_a_channel_begins(server: SmallServer) -> None:
    await group(server, "b")
    for each in range(1, 5):
        await server.store("g", GROUP, "x", str(each).encode())
    async with connect(server.tcp, "b", sync=server.provider("b"), positions={("g", GROUP): 1}) as b:
        assert await texts(b, 3) == ["2", "3", "4"]
        assert b.positions == {("g", GROUP): 4}


async def test_positions_count_only_what_was_taken(server: SmallServer) -> None:
    await group(server, "b")
    async with connect(server.tcp, "b", ack="received") as b:
        for each in range(1, 4):
            await server.store("g", GROUP, "x", str(each).encode())
        await server.until(lambda: len(server.recvacks) == 3)
        assert b.positions == {("g", GROUP): 0}
        await anext(b)
        assert b.positions == {("g", GROUP): 1}
    assert b.positions == {("g", GROUP): 1}


async def test_a_send_without_an_answer_is_repeated_after_a_reconnect_and_stored_once(
    server: SmallServer, transport: str
) -> None:
    await group(server, "a", "b")
    server.cut_before_sendack = 1
    async with connect(place(server, transport), "a", backoff=QUICK, sync=server.provider("a")) as a:
        sent = await a.send("g", GROUP, "x", client_msg_no="n")
        assert sent.message_seq == 1
        assert (await a.send("g", GROUP, "y")).message_seq == 2
        await a.wait_for(State.SYNCED)
    assert [packet.client_msg_no for packet in server.sends[:2]] == ["n", "n"]
    assert len(server.channel("g", GROUP).messages) == 2
    assert len(server.connects) == 2


async def test_pipelined_sends_keep_their_order_over_reconnects(server: SmallServer) -> None:
    await group(server, "a")
    server.cut_before_sendack = 5
    async with connect(server.tcp, "a", backoff=QUICK) as a:
        await asyncio.gather(*(a.send("g", GROUP, str(each)) for each in range(40)))
    stored = [row.payload for row in server.channel("g", GROUP).messages]
    assert stored == [str(each).encode() for each in range(40)]


async def test_a_copy_of_an_own_message_is_not_delivered_while_its_answer_is_awaited(server: SmallServer) -> None:
    await group(server, "a", "b")

    def store_and_cut(session: Session, packet: Send) -> None:
        server.on_send = None
        session.cut()

    server.on_send = store_and_cut
    async with connect(server.tcp, "a", backoff=QUICK, sync=server.provider("a")) as a:
        call = asyncio.create_task(a.send("g", GROUP, "mine", client_msg_no="n"))
        await server.until(lambda: len(server.sends) == 1)
        # The first SEND was stored after its connection had gone.
        await server.store("g", GROUP, "a", b"mine", client_msg_no="n")
        await server.store("g", GROUP, "b", b"theirs")
        assert await texts(a, 1) == ["theirs"]
        assert (await call).message_seq == 1


async def test_sends_made_while_away_leave_after_the_login(server: SmallServer) -> None:
    async with connect(server.tcp, "a", backoff=QUICK) as a:
        session = await server.until_logged_in("a")
        session.cut()
        await a.wait_for(State.WAITING)
        assert (await a.send("b", PERSON, "x")).message_seq == 1


async def test_attempts_wait_longer_and_longer_and_the_waits_are_within_their_bounds(server: SmallServer) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 12:
            server.refuse_connections = False
        await asyncio.sleep(0)

    backoff = Backoff(base_s=1.0, cap_s=60.0)
    async with connect(server.tcp, "a", backoff=backoff, random=Random(3), sleep=sleep) as a:
        server.refuse_connections = True
        (await server.until_logged_in("a")).cut()
        await server.until_logged_in("a", 2)
        await a.wait_for(State.CONNECTED, State.SYNCED)
    bounds = [min(60.0, 2.0**failures) for failures in range(12)]
    assert len(waits) == 12
    assert all(0 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
    assert max(waits) > 10


async def test_a_server_that_accepts_and_drops_is_not_hammered(server: SmallServer) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    def cut_at_login(change: StateChange) -> None:
        if change.state is State.CONNECTED and len(waits) < 8:
            asyncio.get_running_loop().call_later(0.01, lambda: [session.cut() for session in server.sessions])

    class Longest(Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    async with connect(
        server.tcp, "a", backoff=Backoff(base_s=1.0, cap_s=30.0), random=Longest(), sleep=sleep, on_state=cut_at_login
    ):
        await server.until_logged_in("a", 9)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


async def test_the_client_gives_up_when_the_back_off_says_so(server: SmallServer) -> None:
    async with connect(server.tcp, "a", backoff=Backoff(base_s=0.001, attempts_limit=3)) as a:
        server.refuse_connections = True
        (await server.until_logged_in("a")).cut()
        with pytest.raises(GaveUp, match="3 attempts"):
            await anext(a)


async def test_a_silent_connection_is_replaced(server: SmallServer) -> None:
    server.mute = True
    async with connect(server.tcp, "a", ping_interval_s=0.05, backoff=QUICK):
        await server.until_logged_in("a", 2)
    assert server.pings_count >= 1


async def test_pings_keep_a_quiet_connection(server: SmallServer, transport: str) -> None:
    async with connect(place(server, transport), "a", ping_interval_s=0.1):
        await server.until(lambda: server.pings_count >= 6)
    assert len(server.connects) == 1


# -- final errors --


async def test_nobody_listening_is_told_at_once(unused_address: str) -> None:
    with pytest.raises(ConnectFailed, match=f"cannot connect to {unused_address}: connection refused"):
        await connect(unused_address, "a")


async def test_a_server_that_closes_without_an_answer_is_told(server: SmallServer) -> None:
    server.refuse_connections = True
    with pytest.raises(ConnectFailed):
        await connect(server.tcp, "a")


async def test_the_first_attempt_may_be_repeated_too(server: SmallServer) -> None:
    server.refuse_connections = True
    changes: list[StateChange] = []

    def seen(change: StateChange) -> None:
        changes.append(change)
        if len(changes) > 4:
            server.refuse_connections = False

    async with connect(server.tcp, "a", retry_first=True, backoff=QUICK, on_state=seen) as a:
        assert a.state in {State.CONNECTED, State.SYNCED}
    assert [change.state for change in changes[:2]] == [State.CONNECTING, State.WAITING]


@pytest.mark.parametrize("reason", [2, 19])
async def test_a_refused_login_is_final(server: SmallServer, transport: str, reason: int) -> None:
    server.login_reason = reason
    with pytest.raises(LoginRefused) as caught:
        await connect(place(server, transport), "a", retry_first=True)
    assert caught.value.reason == reason
    assert len(server.connects) == 1


async def test_a_login_refused_at_a_reconnect_is_final_too(server: SmallServer) -> None:
    async with connect(server.tcp, "a", backoff=QUICK) as a:
        server.login_reason = 19
        (await server.until_logged_in("a")).cut()
        with pytest.raises(LoginRefused):
            await a.wait_for(State.SYNCED, State.CLOSED) and await a.send("b", PERSON, "x")
            await anext(a)


async def test_a_kick_is_final_and_comes_behind_the_messages_before_it(server: SmallServer, transport: str) -> None:
    await group(server, "a")
    async with connect(place(server, transport), "a", backoff=QUICK) as a:
        session = await server.until_logged_in("a")
        server.on_send = lambda session, packet: None
        call = asyncio.create_task(a.send("g", GROUP, "x"))
        await server.until(lambda: len(server.sends) == 1)
        await server.store("g", GROUP, "x", b"last words")
        await session.kick(12, "login in other device")
        with pytest.raises(Kicked, match="login in other device") as caught:
            await call
        assert caught.value.reason == 12
        assert await texts(a, 1) == ["last words"]
        with pytest.raises(Kicked):
            await anext(a)
        with pytest.raises(Kicked):
            await a.send("g", GROUP, "x")
        assert a.state is State.CLOSED
    assert len(server.connects) == 1


async def test_a_fault_in_the_provider_ends_the_client_with_that_fault(server: SmallServer) -> None:
    sync = server.provider("a")
    async with connect(server.tcp, "a", sync=sync, backoff=QUICK) as a:
        await a.wait_for(State.SYNCED)
        sync.fail = [KeyError("a bug")]
        (await server.until_logged_in("a")).cut()
        with pytest.raises(KeyError):
            await anext(a)


# -- closing --


async def test_closing_ends_the_iteration_and_calls_that_wait(server: SmallServer) -> None:
    server.on_send = lambda session, packet: None
    a = await connect(server.tcp, "a")
    call = asyncio.create_task(a.send("b", PERSON, "x"))
    iteration = asyncio.create_task(texts(a, 1))
    await server.until(lambda: len(server.sends) == 1)
    await a.close()
    with pytest.raises(ClientClosed):
        await call
    with pytest.raises(StopAsyncIteration):
        await iteration
    with pytest.raises(ClientClosed):
        await a.send("b", PERSON, "x")
    assert [message async for message in a] == []
    await a.close()


async def test_closing_while_waiting_to_reconnect_does_not_take_the_wait(server: SmallServer) -> None:
    async with connect(server.tcp, "a", backoff=Backoff(base_s=1_000, cap_s=1_000)) as a:
        (await server.until_logged_in("a")).cut()
        await a.wait_for(State.WAITING)
    assert a.state is State.CLOSED


async def test_a_client_is_opened_once_and_not_used_before(server: SmallServer) -> None:
    a = connect(server.tcp, "a")
    with pytest.raises(RuntimeError, match="not open"):
        await a.send("b", PERSON, "x")
    async with a:
        with pytest.raises(RuntimeError, match="opened once"):
            await a.open()


def test_an_address_that_is_none_is_refused_when_it_is_given() -> None:
    for wrong in ("localhost", "host:port", "http://x:1", "h:0", "h:70000"):
        with pytest.raises(ValueError, match=r"host:port|URL"):
            connect(wrong, "a")


# -- backpressure --


async def test_a_slow_application_stops_the_server_and_gets_everything_in_the_end(
    server: SmallServer, transport: str
) -> None:
    """The client keeps at most its limit and one read; the rest stays in the socket and on the server."""
    await group(server, "b")
    limits = ClientLimits(receive_count=50)
    # 30 MB altogether: more than the buffers of the sockets take.
    payload = b"x" * 30_000
    async with connect(place(server, transport), "b", limits=limits, ping_interval_s=0.05) as b:
        flood = asyncio.create_task(_flood(server, payload, 1_000))
        while not b._reading_paused:
            await asyncio.sleep(0.01)
        # Several ping intervals: that nothing is received now does not count as silence of the server.
        await asyncio.sleep(0.2)
        held_count = len(b._inbox._ready)
        assert not flood.done()
        assert 50 <= held_count <= 50 + 65_536 // 30_000
        received = [await anext(b) for _ in range(1_000)]
        await flood
    assert [message.message_seq for message in received] == list(range(1, 1_001))
    assert len(server.connects) == 1


async def _flood(server: SmallServer, payload: bytes, count: int) -> None:
    for _ in range(count):
        await server.store("g", GROUP, "x", payload)


async def test_a_handler_that_sends_gets_its_answer_although_the_inbox_is_full(server: SmallServer) -> None:
    await group(server, "b")
    async with connect(server.tcp, "b", limits=ClientLimits(receive_count=5)) as b:
        for each in range(45):
            await server.store("g", GROUP, "x", str(each).encode())
        for each in range(45):
            message = await anext(b)
            assert message.payload == str(each).encode()
            await b.send("x", PERSON, "got it", timeout=5)


# -- events and states --


async def test_events_and_states_are_told(server: SmallServer) -> None:
    events: list[Event] = []
    arrived = asyncio.Event()
    states: list[State] = []

    def on_event(event: Event) -> None:
        events.append(event)
        arrived.set()
        raise RuntimeError("an application's fault is logged and ends nothing")

    async with connect(
        server.tcp, "a", on_event=on_event, on_state=lambda change: states.append(change.state), backoff=QUICK
    ) as a:
        session = await server.until_logged_in("a")
        await session.event(Event("e1", "stream.delta", 5, b"{}"))
        await arrived.wait()
        await a.wait_for(State.SYNCED)
        session.cut()
        await server.until_logged_in("a", 2)
        await a.wait_for(State.SYNCED)
    assert events == [Event("e1", "stream.delta", 5, b"{}")]
    once = [State.CONNECTING, State.CONNECTED, State.SYNCED]
    assert states == [*once, State.WAITING, *once, State.CLOSED]
