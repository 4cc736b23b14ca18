import json
from uuid import uuid4

from tests.cli.conftest import Wukong, answer
from tests.support.server import ServerProcess
from wukong.cli.output import run
from wukong.client import AdminClient


def history(node: ServerProcess, uid: str, channel_id: str, channel_type: int) -> list[bytes]:
    async def work() -> list[bytes]:
        async with AdminClient(node.http_url) as admin:
            page = await admin.sync_messages(uid, channel_id, channel_type)
            return [message.payload for message in page.messages]

    return run(work())


def test_a_message_to_a_person_is_stored_and_its_seq_printed(on_node: Wukong, node: ServerProcess) -> None:
    bob = f"bob-{uuid4().hex[:8]}"
    first = on_node("send", bob, "hello", "--uid", "alice", "--type", "person")
    assert first.stdout.startswith(f"stored as message 1 of {bob}, id ")
    second = answer(on_node("send", bob, "raw", "--uid", "alice", "-t", "person", "--raw", "--json"))
    assert second["message_seq"] == 2
    assert history(node, bob, "alice", 1) == [b'{"type":1,"content":"hello"}', b"raw"]


def test_the_text_may_come_from_standard_input(on_node: Wukong, node: ServerProcess) -> None:
    bob = f"bob-{uuid4().hex[:8]}"
    assert on_node("send", bob, "-", "-u", "alice", "-t", "1", "--raw", text="piped\n").exit_code == 0
    assert history(node, bob, "alice", 1) == [b"piped"]


def test_the_same_number_twice_is_stored_once(on_node: Wukong, node: ServerProcess) -> None:
    bob = f"bob-{uuid4().hex[:8]}"
    call = ("send", bob, "once", "-u", "alice", "-t", "person", "--client-msg-no", "n1", "--json")
    assert answer(on_node(*call)) == answer(on_node(*call))
    assert len(history(node, bob, "alice", 1)) == 1


def test_a_back_end_sends_over_http(on_node: Wukong, node: ServerProcess) -> None:
    bob = f"bob-{uuid4().hex[:8]}"
    result = on_node("send", bob, "from the back end", "-u", "alice", "-t", "person", "--raw", "--http")
    assert result.stdout.startswith("accepted, id ")
    assert history(node, bob, "alice", 1) == [b"from the back end"]


def test_what_is_not_stored_has_no_seq(on_node: Wukong) -> None:
    sent = answer(on_node("send", "bob", "x", "-u", "alice", "-t", "person", "--no-persist", "--json"))
    assert sent["message_seq"] == 0
    assert sent["message_id"] > 0


def test_a_stranger_is_told_what_to_do(on_node: Wukong) -> None:
    result = on_node("send", f"g-{uuid4().hex[:8]}", "x", "-u", "eve", "--json")
    assert result.exit_code == 1
    assert "wukong channel add" in json.loads(result.stdout)["error"]


def test_nobody_listening_is_told_with_the_address_and_what_to_check(wukong: Wukong, unused_address: str) -> None:
    result = wukong("send", "bob", "x", "-u", "alice", "--tcp", unused_address)
    assert result.exit_code == 3
    assert f"cannot connect to {unused_address}: connection refused" in result.stderr
    assert "--tcp or WUKONG_TCP" in result.stderr


def test_an_address_that_is_none_is_a_usage_error(wukong: Wukong) -> None:
    result = wukong("send", "bob", "x", "-u", "alice", "--tcp", "nonsense")
    assert result.exit_code == 2
    assert "host:port" in result.stderr
