"""What the client SDKs in the field need from a server, and what is easy to get wrong: a test for each such demand, by
raw sockets (reference_client.py), so that a change that only they would notice is noticed here.

Where nodes could differ a demand is tested on one node and on three; there each connection and each HTTP request goes
to another node than the one before.
"""

import base64
import contextlib
import itertools
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from tests.compat.reference_client import Client, Frame, JsonClient, Tcp, WebSocket, put_frame, put_text
from tests.support.cluster import running_cluster
from tests.support.server import ServerProcess

PERSON, GROUP = 1, 2
SUCCESS, STRANGER, UNREADABLE, KICKED = 1, 3, 9, 12
NO_ENCRYPT, STREAM = 0x10, 0x02
PING, PONG = b"\x70", "pong"
ANSWER_S = 10.0
# After a DISCONNECT the socket closes two seconds later; sockets are looked at four times a second.
CLOSED_S = 2.0 + 3.0
PAUSE_S = 0.01
LOGINS, LATE_ONES = 20, 5


class Node(NamedTuple):
    """Where one node listens."""

    http: str
    tcp: str
    ws: str


class Place:
    """A server or a cluster; requests and connections take its nodes in turn. Ids are of this place alone."""

    def __init__(self, nodes: list[Node], settings: dict[str, Any] | None = None) -> None:
        self.nodes = nodes
        self._turn = itertools.cycle(nodes)
        self._numbers = itertools.count(1)
        self._open: list[Client] = []

    def name(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers)}-{uuid4().hex[:6]}"

    # HTTP ------------------------------------------------------------------------------------------------------------

    def http(self, path: str, body: object = None) -> tuple[int, Any]:
        """POST, or GET without a body: the status and what the answer says."""
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(
                urllib.request.Request(next(self._turn).http + path, data), timeout=20
            ) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def call(self, path: str, body: object = None) -> Any:
        status, answer = self.http(path, body)
        assert status == 200, (path, status, answer)
        return answer

    def group(self, *uids: str) -> str:
        group = self.name("g")
        self.call("/channel", {"channel_id": group, "channel_type": GROUP, "subscribers": list(uids)})
        return group

    # Sockets ---------------------------------------------------------------------------------------------------------

    def opened(self, *, ws: bool = False, kind: type[Client] = Client) -> Any:
        node = next(self._turn)
        client = kind(WebSocket(node.ws) if ws else Tcp(node.tcp), self.name("c"))
        self._open.append(client)
        return client

    def login(self, uid: str, *, ws: bool = False, **options: Any) -> Client:
        client: Client = self.opened(ws=ws)
        client.connect({"uid": uid, "device_id": self.name("d"), **options})
        frame = client.take("connack", ANSWER_S)
        assert frame is not None and frame["reason_code"] == SUCCESS, frame
        return client

    def login_json(self, uid: str, *, ws: bool = False, **params: Any) -> JsonClient:
        client: JsonClient = self.opened(ws=ws, kind=JsonClient)
        params = {"uid": uid, "deviceId": self.name("d"), "deviceFlag": 1, **params}
        answer = request(client, "connect", params)
        assert answer["result"]["reasonCode"] == SUCCESS
        return client

    def close(self) -> None:
        for client in self._open:
            client.transport.close()
        self._open.clear()


def node_of(process: ServerProcess) -> Node:
    return Node(process.http_url, f"127.0.0.1:{process.tcp_port}", f"127.0.0.1:{process.ws_port}")


@contextlib.contextmanager
def one_node(directory: Path, settings: dict[str, Any] | None = None) -> Iterator[Place]:
    process = ServerProcess(directory, settings)
    process.start()
    try:
        yield Place([node_of(process)])
    finally:
        process.stop()
    assert process.complaints() == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with one_node(tmp_path_factory.mktemp("demands")) as place:
        yield place


@pytest.fixture(scope="module")
def plaintext_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    settings = {"wukong": {"allowPlaintextSetting": True}}
    with one_node(tmp_path_factory.mktemp("demands-plaintext"), settings) as place:
        yield place


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with running_cluster(tmp_path_factory.mktemp("demands-cluster"), proxied=False) as nodes:
        yield Place([node_of(node) for node in nodes])
        assert nodes.complaints() == []


@pytest.fixture
def node(server: Place) -> Iterator[Place]:
    """One node, for what is between a client and its socket."""
    yield server
    server.close()


@pytest.fixture(params=["server", "cluster"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """One node, and three."""
    chosen: Place = request.getfixturevalue(request.param)
    yield chosen
    chosen.close()


# Frames and texts ----------------------------------------------------------------------------------------------------


def expect(client: Client, kind: str) -> Frame:
    """The next frame of a kind."""
    frame = client.take(kind, ANSWER_S)
    assert frame is not None, f"{client.name} never got {kind}; it got {client.inbox}"
    return frame


def send(client: Client, channel: str, kind: int = GROUP, **options: Any) -> Frame:
    """The SENDACK."""
    client.send({"channel_id": channel, "channel_type": kind, "payload": "hello", "red_dot": 1, **options})
    return expect(client, "sendack")


def write(client: JsonClient, message: object) -> None:
    client.transport.write(json.dumps(message).encode(), text=True)


def request(client: JsonClient, method: str, params: object = None) -> Any:
    """The answer with the request's id."""
    number = uuid4().hex
    write(client, {"jsonrpc": "2.0", "id": number, "method": method, "params": params})
    return next(message for message in iter(lambda: expect(client, "json"), None) if message.get("id") == number)


def notification(client: JsonClient, method: str) -> Any:
    message = expect(client, "json")
    assert message["method"] == method, message
    assert "id" not in message
    return message["params"]


def send_json(client: JsonClient, channel: str, kind: int = GROUP, **params: Any) -> Any:
    payload = base64.b64encode(b"hello").decode()
    return request(client, "send", {"channelId": channel, "channelType": kind, "payload": payload, **params})


def wait_closed(client: Client, seconds: float = CLOSED_S) -> None:
    deadline = time.monotonic() + seconds
    while not client.transport.closed:
        assert time.monotonic() < deadline, f"{client.name} is still open after {seconds} s"
        client.poll(deadline - time.monotonic())


# JSON-RPC ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [None, {}], ids=["params null", "params empty"])
def test_a_pong_of_json_rpc_has_a_result_and_no_error(node: Place, params: object) -> None:
    answer = request(node.login_json(node.name("u"), ws=True), "ping", params)
    assert answer.keys() == {"jsonrpc", "id", "result"}


def test_a_recv_of_json_rpc_always_has_a_header(place: Place) -> None:
    a, b = place.name("a"), place.name("b")
    sender, other, receiver = place.login_json(a), place.login_json(a, ws=True), place.login_json(b, ws=True)
    ack = send_json(sender, b, PERSON, header={"redDot": True})["result"]
    got, copy = notification(receiver, "recv"), notification(other, "recv")
    assert (got["header"], copy["header"]) == ({"redDot": True}, {})
    assert (got["channelId"], copy["channelId"]) == (a, b)
    assert got["messageId"] == copy["messageId"] == ack["messageId"]
    assert isinstance(got["messageId"], str) and got["messageId"].isdigit()
    assert base64.b64decode(got["payload"]) == b"hello"
    send_json(sender, b, PERSON)
    assert notification(receiver, "recv")["header"] == {}


def test_a_refused_send_of_json_rpc_is_a_result_with_its_reason(place: Place) -> None:
    group = place.group(place.name("b"))
    answer = send_json(place.login_json(place.name("a"), ws=True), group)
    assert "error" not in answer
    result = answer["result"]
    assert (result["reasonCode"], result["messageSeq"]) == (STRANGER, 0)
    assert isinstance(result["messageId"], str) and int(result["messageId"]) > 0


def test_a_kick_of_json_rpc_carries_an_integer_reason_and_the_socket_closes(place: Place) -> None:
    uid = place.name("u")
    client = place.login_json(uid, ws=True)
    place.call("/user/device_quit", {"uid": uid, "device_flag": 1})
    place.call("/user/token", {"uid": uid, "token": "t", "device_flag": 1, "device_level": 1})
    assert notification(client, "disconnect")["reasonCode"] == KICKED
    # A master's token gives ten seconds; a second kick brings the close forward.
    place.call("/user/device_quit", {"uid": uid, "device_flag": 1})
    wait_closed(client)


BAD_REQUESTS = {
    "an unknown method": {"method": "nope", "params": {}},
    "no method": {"params": {}},
    "no params": {"method": "send"},
    "params of the wrong kind": {"method": "send", "params": [1]},
    "a field of the wrong kind": {"method": "send", "params": {"channelId": 7}},
    "a channel type that is none": {"method": "send", "params": {"channelId": "g", "channelType": 256}},
    "a payload that is no base64": {"method": "send", "params": {"channelId": "g", "channelType": 2, "payload": "%"}},
    "another version": {"jsonrpc": "1.0", "method": "ping"},
    "a second connect": {"method": "connect", "params": {"uid": "u"}},
    "a recvack as a request": {"method": "recvack", "params": {"messageId": "1", "messageSeq": 1}},
    "subscribe": {"method": "subscribe", "params": {"subNo": "1", "channelId": "g", "channelType": 2}},
    "unsubscribe": {"method": "unsubscribe", "params": {"subNo": "1", "channelId": "g", "channelType": 2}},
}


@pytest.mark.parametrize("ws", [False, True], ids=["tcp", "ws"])
@pytest.mark.parametrize("bad", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_json_rpc_request_gets_an_error_with_its_id_and_the_connection_lives_on(
    node: Place, bad: dict[str, Any], ws: bool
) -> None:
    client = node.login_json(node.name("u"), ws=ws)
    write(client, {"id": "bad-1", **bad})
    answer = expect(client, "json")
    assert answer["id"] == "bad-1"
    assert answer.keys() == {"jsonrpc", "id", "error"}
    assert answer["error"].keys() >= {"code", "message"}
    assert isinstance(answer["error"]["code"], int)
    assert request(client, "ping")["result"] == {}


@pytest.mark.parametrize("number", [1, None, ["x"], {}], ids=str)
def test_an_id_that_is_no_string_gets_an_error_and_the_connection_lives_on(node: Place, number: object) -> None:
    client = node.login_json(node.name("u"), ws=True)
    write(client, {"jsonrpc": "2.0", "id": number, "method": "ping"})
    answer = expect(client, "json")
    assert "error" in answer and "id" not in answer
    assert request(client, "ping")["result"] == {}


def test_a_json_rpc_request_may_be_cut_into_segments_anywhere_the_login_too(node: Place) -> None:
    client = node.opened(kind=JsonClient)
    texts = [
        {"id": "1", "method": "connect", "params": {"uid": node.name("ü"), "deviceId": "d", "deviceFlag": 1}},
        {"id": "2", "method": "ping", "params": {}},
    ]
    for text in texts:
        data = json.dumps(text, ensure_ascii=False).encode()
        for at in range(len(data)):
            client.transport.write(data[at : at + 1], text=True)
        answer = expect(client, "json")
        assert answer["id"] == text["id"] and "result" in answer


def test_several_json_rpc_requests_may_come_in_one_segment_the_login_too(node: Place) -> None:
    client = node.opened(kind=JsonClient)
    connect = {"id": "0", "method": "connect", "params": {"uid": node.name("u"), "deviceId": "d", "deviceFlag": 1}}
    pings = [{"id": str(number), "method": "ping"} for number in range(1, 50)]
    client.transport.write("\n ".join(map(json.dumps, [connect, *pings])).encode())
    assert [expect(client, "json")["id"] for _ in range(50)] == [str(number) for number in range(50)]


def test_json_in_a_binary_websocket_message_is_taken_and_answered_in_text(node: Place) -> None:
    client = node.opened(ws=True, kind=JsonClient)
    connect = {"id": "1", "method": "connect", "params": {"uid": node.name("u"), "deviceId": "d", "deviceFlag": 1}}
    for message in (connect, {"id": "2", "method": "ping"}):
        client.transport.write(json.dumps(message).encode(), text=False)
        assert expect(client, "json")["id"] == message["id"]
    assert client.transport.kinds == ["text", "text"]


def test_a_refused_login_of_json_rpc_is_an_error_not_a_result(tmp_path: Path) -> None:
    """A result is taken for success, whatever its reason says."""
    with one_node(tmp_path, {"tokenAuthOn": True}) as place:
        client = place.opened(ws=True, kind=JsonClient)
        answer = request(client, "connect", {"uid": "u", "token": "wrong", "deviceId": "d", "deviceFlag": 1})
        assert answer.keys() == {"jsonrpc", "id", "error"}
        assert answer["error"]["code"] == 2
        wait_closed(client)
        place.close()


def test_a_client_that_writes_snake_case_and_objects_is_read_and_gets_objects(node: Place) -> None:
    """As the EasySDKs for Android (spelling, objects) and iOS (objects, binary messages) do; devices count from 1."""
    a, b = node.name("a"), node.name("b")
    sender, reader = node.opened(ws=True, kind=JsonClient), node.login_json(b, ws=True)
    send_params = {"channel_id": b, "channel_type": PERSON, "client_msg_no": "n1", "payload": {"type": 1, "text": "hi"}}
    for number, method, params in (
        ("1", "connect", {"uid": a, "device_id": "d", "device_flag": 3}),
        ("2", "send", {**send_params, "header": {"red_dot": True}}),
    ):
        message = {"id": number, "method": method, "params": params}
        sender.transport.write(json.dumps(message).encode(), text=False)
        assert expect(sender, "json")["result"]["reasonCode"] == SUCCESS
    got = notification(reader, "recv")
    assert (got["clientMsgNo"], got["header"]) == ("n1", {"redDot": True})
    assert json.loads(base64.b64decode(got["payload"])) == {"type": 1, "text": "hi"}
    send_json(reader, a, PERSON, payload=base64.b64encode(b'{"text":"hello"}').decode())
    assert notification(sender, "recv")["payload"] == {"text": "hello"}


# WebSocket -----------------------------------------------------------------------------------------------------------


def test_a_websocket_message_holds_one_packet_binary_for_wkproto_and_text_for_json_rpc(place: Place) -> None:
    a, b, c = place.name("a"), place.name("b"), place.name("c")
    group = place.group(a, b, c)
    receiver, json_receiver, sender = place.login(b, ws=True), place.login_json(c, ws=True), place.login(a)
    for number in range(100):
        sender.send({"channel_id": group, "channel_type": GROUP, "payload": f"m{number}"})
    assert [expect(receiver, "recv")["payload"] for _ in range(100)] == [f"m{number}" for number in range(100)]
    assert [notification(json_receiver, "recv")["messageSeq"] for _ in range(100)] == list(range(1, 101))
    # The CONNACK and the hundred messages.
    assert receiver.transport.kinds == ["binary"] * 101
    assert json_receiver.transport.kinds == ["text"] * 101


# Kicks ---------------------------------------------------------------------------------------------------------------


def kick(place: Place, uid: str) -> None:
    connections = [row for node in place.nodes for row in connections_at(node, uid)]
    assert len(connections) == 1
    body = {"uid": uid, "conn_id": connections[0]["id"], "node_id": connections[0]["node_id"]}
    place.call("/conn/kick", body)


def connections_at(node: Node, uid: str) -> list[Any]:
    with urllib.request.urlopen(f"{node.http}/connz?uid={uid}", timeout=20) as answer:
        found: list[Any] = json.load(answer)["connections"]
    return found


def quit_device(place: Place, uid: str) -> None:
    place.call("/user/token", {"uid": uid, "token": "t", "device_flag": 0, "device_level": 0})
    place.call("/user/device_quit", {"uid": uid, "device_flag": -1})


KICKS: dict[str, tuple[Callable[[Place, str], None], str]] = {
    "/conn/kick": (kick, "server kick"),
    "/user/device_quit": (quit_device, ""),
}


@pytest.mark.parametrize("how", KICKS)
@pytest.mark.parametrize("ws", [False, True], ids=["tcp", "ws"])
def test_a_socket_is_closed_soon_after_its_disconnect(node: Place, how: str, ws: bool) -> None:
    uid = node.name("u")
    client = node.login(uid, ws=ws)
    act, text = KICKS[how]
    act(node, uid)
    assert expect(client, "disconnect") == {"reason_code": KICKED, "reason": text}
    wait_closed(client)


def test_a_socket_is_closed_soon_after_a_kick_that_another_node_was_asked_for(place: Place) -> None:
    uid = place.name("u")
    client = place.login(uid)
    quit_device(place, uid)
    assert expect(client, "disconnect")["reason_code"] == KICKED
    wait_closed(client)
    assert all(not connections_at(node, uid) for node in place.nodes)


# After the CONNACK ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def talking(sender: Client, group: str) -> Iterator[None]:
    """While it lasts the sender writes a message every millisecond."""
    enough = threading.Event()

    def talk() -> None:
        while not enough.wait(0.001):
            sender.send({"channel_id": group, "channel_type": GROUP, "payload": "and so on"})

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


@pytest.mark.parametrize("ws", [False, True], ids=["tcp", "ws"])
def test_messages_begin_some_milliseconds_after_the_connack(place: Place, ws: bool) -> None:
    """Clients make their keys from the CONNACK, some of them in another thread: what is right behind it they lose, or
    fail at. So a few milliseconds pass. A busy machine reads late and finds less of the pause, so a few count."""
    a, b = place.name("a"), place.name("b")
    group = place.group(a, b)
    pauses_s = []
    with talking(place.login(a), group):
        for _ in range(LOGINS):
            receiver = place.login(b, ws=ws)
            began = time.monotonic()
            assert expect(receiver, "recv")["msg_key"] == "valid"
            pauses_s.append(time.monotonic() - began)
            receiver.transport.close()
    assert sorted(pauses_s)[-LATE_ONES] > PAUSE_S / 2, pauses_s


@pytest.mark.parametrize("ws", [False, True], ids=["tcp", "ws"])
def test_sends_right_behind_the_connack_are_taken_and_a_repeated_one_gets_its_first_answer(
    place: Place, ws: bool
) -> None:
    a, b = place.name("a"), place.name("b")
    group, device = place.group(a, b), place.name("d")
    receiver, sender = place.login(b), place.login(a, device_id=device)
    numbers = [uuid4().hex for _ in range(5)]
    first = [send(sender, group, client_msg_no=number) for number in numbers]
    sender.transport.close()
    # The same device, at another node: it has seen no answer, and sends everything again, and something new.
    again = place.login(a, device_id=device, ws=ws)
    again.sequence = sender.sequence
    for number in [*numbers, "new"]:
        again.send(
            {"channel_id": group, "channel_type": GROUP, "payload": "hello", "red_dot": 1, "client_msg_no": number}
        )
    acks = [expect(again, "sendack") for _ in range(6)]
    told = [(ack["message_id"], ack["message_seq"], ack["reason_code"]) for ack in acks]
    assert told[:5] == [(ack["message_id"], ack["message_seq"], SUCCESS) for ack in first]
    assert told[5][1:] == (6, SUCCESS)
    assert [ack["client_seq"] for ack in acks] == list(range(6, 12))
    assert [expect(receiver, "recv")["message_seq"] for _ in range(6)] == list(range(1, 7))


# SENDACK -------------------------------------------------------------------------------------------------------------

FLAGS: list[dict[str, int]] = [
    {},
    {"no_persist": 1},
    {"red_dot": 1},
    {"sync_once": 1},
    {"dup": 1},
    {"red_dot": 1, "dup": 1},
]


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: "+".join(flags) or "none")
@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_a_sendack_repeats_the_clients_number_and_flags(node: Place, flags: dict[str, int], version: int) -> None:
    a = node.name("a")
    group = node.group(a)
    sender = node.login(a, version=version)
    ack = send(sender, group, client_seq=4_000_000_000, **{"red_dot": 0, **flags})
    assert (ack["client_seq"], ack["flags"]) == (4_000_000_000, list(flags))
    assert ack["reason_code"] == SUCCESS and ack["message_id"] != 0
    assert (ack["message_seq"] == 0) == ("no_persist" in flags)


def test_a_refused_send_has_no_place_but_an_id(place: Place) -> None:
    sender = place.login(place.name("a"))
    group = place.group(place.name("b"))
    refused = [
        send(sender, group),
        send(sender, group, msg_key="0" * 32),
        send(sender, group, bad_payload="bm90IHNlYWxlZA=="),
    ]
    assert [ack["reason_code"] for ack in refused] == [STRANGER, UNREADABLE, UNREADABLE]
    assert all(ack["message_seq"] == 0 and ack["message_id"] != 0 for ack in refused)
    assert len({ack["message_id"] for ack in refused}) == 3
    sender.transport.write(PING)
    expect(sender, PONG)


# RECV ----------------------------------------------------------------------------------------------------------------


def test_a_person_message_names_the_other_side_to_each_device(place: Place) -> None:
    a, b = place.name("a"), place.name("b")
    sender, other, receiver = place.login(a), place.login(a, ws=True), place.login(b)
    ack = send(sender, b, PERSON)
    got, copy = expect(receiver, "recv"), expect(other, "recv")
    assert (got["from_uid"], got["channel_id"], got["flags"]) == (a, a, ["red_dot"])
    assert (copy["from_uid"], copy["channel_id"], copy["flags"]) == (a, b, [])
    assert got["message_id"] == copy["message_id"] == ack["message_id"]
    # The connection that sent gets none: the next thing there is the answer to the next message from the peer.
    send(receiver, a, PERSON, payload="answer")
    assert expect(sender, "recv")["payload"] == "answer"


def test_a_message_of_the_system_has_neither_sender_nor_channel(place: Place) -> None:
    uid = place.name("u")
    client = place.login(uid)
    body = {"header": {"red_dot": 1}, "channel_id": uid, "channel_type": PERSON, "payload": "aGk="}
    place.call("/message/send", body)
    got = expect(client, "recv")
    assert (got["from_uid"], got["channel_id"], got["channel_type"], got["payload"]) == ("", "", PERSON, "hi")
    assert got["msg_key"] == "valid"


def test_a_command_is_live_under_the_channels_own_id_and_in_sync_under_its_twins(place: Place) -> None:
    a, b = place.name("a"), place.name("b")
    group = place.group(a, b)
    client = place.login(a)
    header = {"sync_once": 1, "no_persist": 0, "red_dot": 0}
    body = {"header": header, "from_uid": b, "channel_id": group, "channel_type": GROUP, "payload": "aGk="}
    place.call("/message/send", body)
    got = expect(client, "recv")
    assert (got["flags"], got["channel_id"], got["message_seq"]) == (["sync_once"], group, 1)
    rows = place.call("/message/sync", {"uid": a, "limit": 10})
    assert [(row["channel_id"], row["message_seq"], row["header"]["sync_once"]) for row in rows] == [
        (f"{group}____cmd", 1, 1)
    ]


@pytest.mark.parametrize("ws", [False, True], ids=["tcp", "ws"])
def test_a_message_with_the_stream_bit_is_laid_out_for_each_version(place: Place, ws: bool) -> None:
    """Versions 2 to 4 disagree about the fields of this bit, so they are not shown it; version 5 has none."""
    a = place.name("a")
    readers = {version: place.name("b") for version in (1, 2, 3, 4, 5)}
    group = place.group(a, *readers.values())
    clients = {version: place.login(uid, version=version, ws=ws) for version, uid in readers.items()}
    ack = send(place.login(a), group, setting=STREAM, payload="begin")
    for version, client in clients.items():
        got = expect(client, "recv")
        assert (got["payload"], got["msg_key"], got["message_id"]) == ("begin", "valid", ack["message_id"])
        assert got["setting"] == (STREAM if version == 5 else 0)
        assert "stream_no" not in got


def test_an_old_clients_stream_number_is_read_and_its_message_goes_on(place: Place) -> None:
    a, b = place.name("a"), place.name("b")
    group = place.group(a, b)
    new, old = place.login(b), place.login(a, version=4)
    assert send(old, group, setting=STREAM, stream_no="s1", payload="begin")["reason_code"] == SUCCESS
    got = expect(new, "recv")
    assert (got["channel_id"], got["setting"], got["payload"]) == (group, STREAM, "begin")


# EVENT ---------------------------------------------------------------------------------------------------------------


def stream(place: Place, group: str, from_uid: str, deltas: list[str]) -> str:
    """A message that comes bit by bit, from its beginning to its end. Returns its client_msg_no."""
    number = uuid4().hex
    channel = {"channel_id": group, "channel_type": GROUP, "client_msg_no": number, "from_uid": from_uid}
    place.call("/message/send", {**channel, "header": {"red_dot": 1}, "payload": "e30=", "is_stream": 1})
    for count, delta in enumerate(deltas):
        payload = {"kind": "text", "delta": delta}
        body = {**channel, "event_id": f"e{count}", "event_type": "stream.delta", "payload": payload}
        place.call("/message/event", body)
    place.call("/message/event", {**channel, "event_id": "end", "event_type": "stream.close", "payload": {}})
    return number


def test_events_go_to_clients_that_know_them_only(place: Place) -> None:
    """An unknown type of frame makes older clients throw their buffer away and connect again."""
    a = place.name("a")
    new, ws, texts = place.name("b"), place.name("c"), place.name("d")
    old = {version: place.name("e") for version in (2, 3, 4)}
    group = place.group(a, new, ws, texts, *old.values())
    knowing = [place.login(new), place.login(ws, ws=True)]
    json_client = place.login_json(texts, ws=True)
    unknowing = [place.login(uid, version=version) for version, uid in old.items()]
    number = stream(place, group, a, ["你", "好"])
    wish = ["e0", "e1", "end"]

    for client in knowing:
        assert expect(client, "recv")["setting"] == STREAM
        events = [expect(client, "event") for _ in wish]
        assert [event["id"] for event in events] == wish
        assert [event["type"] for event in events] == ["stream.delta", "stream.delta", "stream.close"]
        assert all(event["data"]["client_msg_no"] == number for event in events)
        assert events[0]["data"]["payload"]["delta"] == "你"
    assert notification(json_client, "recv")["setting"] == {"stream": True}
    notified = [notification(json_client, "event") for _ in wish]
    assert [event["id"] for event in notified] == wish
    assert [json.loads(event["data"])["client_msg_no"] for event in notified] == [number] * 3

    assert send(place.login(a), group, payload="after it")["reason_code"] == SUCCESS
    for client in unknowing:
        assert [expect(client, "recv")["setting"] for _ in range(2)] == [0, 0]
        assert client.inbox == []


def test_in_history_an_ended_stream_has_its_text(place: Place) -> None:
    a = place.name("a")
    group = place.group(a)
    stream(place, group, a, ["你", "好"])
    body = {"login_uid": a, "channel_id": group, "channel_type": GROUP, "limit": 10}
    (row,) = place.call("/channel/messagesync", body)["messages"]
    assert (row["end"], base64.b64decode(row["stream_data"]).decode()) == (1, "你好")


# Payloads that are not sealed ----------------------------------------------------------------------------------------


def send_plain(client: Client, channel: str) -> Frame:
    """As load generators do: setting 0x10 and no key on a connection that has agreed on keys."""
    return send(client, channel, setting=NO_ENCRYPT, msg_key="", bad_payload="in clear")


def test_a_payload_that_is_not_sealed_is_refused(node: Place) -> None:
    a = node.name("a")
    group = node.group(a)
    sender = node.login(a)
    ack = send_plain(sender, group)
    assert (ack["reason_code"], ack["message_seq"]) == (UNREADABLE, 0)
    assert send(sender, group)["message_seq"] == 1


def test_a_payload_that_is_not_sealed_is_taken_where_the_operator_allows_it(plaintext_server: Place) -> None:
    place = plaintext_server
    a, b = place.name("a"), place.name("b")
    group = place.group(a, b)
    sender, receiver = place.login(a), place.login(b)
    assert send_plain(sender, group)["reason_code"] == SUCCESS
    got = expect(receiver, "recv")
    # To the others it goes as sealed as any other, and says so: some clients decrypt by the bit, others whatever it is.
    assert (got["payload"], got["msg_key"], got["setting"]) == ("in clear", "valid", 0)
    # The bit alone allows nothing: who signs is checked, and without the bit a key is needed.
    assert send(sender, group, setting=NO_ENCRYPT, msg_key="0" * 32)["reason_code"] == UNREADABLE
    assert send(sender, group, msg_key="", bad_payload="in clear")["reason_code"] == UNREADABLE
    assert send(sender, group, setting=NO_ENCRYPT)["reason_code"] == SUCCESS
    assert expect(receiver, "recv")["payload"] == "hello"
    place.close()


# HTTP ----------------------------------------------------------------------------------------------------------------


def test_conversations_are_listed_as_clients_read_them(place: Place) -> None:
    a, b = place.name("a"), place.name("b")
    group = place.group(a, b)
    sender = place.login(a)
    for number in range(1, 6):
        send(sender, group, payload=f"m{number}")

    def synced(uid: str, count: int) -> Any:
        return place.call("/conversation/sync", {"uid": uid, "version": 0, "last_msg_seqs": "", "msg_count": count})

    assert synced(b, 0) == []
    (row,) = synced(b, 3)
    assert [message["message_seq"] for message in row["recents"]] == [5, 4, 3]
    assert (row["unread"], row["last_msg_seq"], row["readed_to_msg_seq"]) == (5, 5, 0)
    (row,) = synced(a, 3)
    assert (row["unread"], row["readed_to_msg_seq"]) == (0, 5)


def test_history_is_ascending_ends_before_its_end_and_every_row_has_its_header(place: Place) -> None:
    a = place.name("a")
    group = place.group(a)
    sender = place.login(a)
    for _ in range(5):
        send(sender, group)

    def page(start: int, end: int, mode: int) -> list[int]:
        body = {
            "login_uid": a,
            "channel_id": group,
            "channel_type": GROUP,
            "start_message_seq": start,
            "end_message_seq": end,
            "limit": 10,
            "pull_mode": mode,
        }
        rows = place.call("/channel/messagesync", body)["messages"]
        assert [row["header"] for row in rows] == [{"no_persist": 0, "red_dot": 1, "sync_once": 0}] * len(rows)
        return [row["message_seq"] for row in rows]

    assert page(0, 0, 0) == page(0, 0, 1) == [1, 2, 3, 4, 5]
    assert page(2, 4, 1) == [2, 3]
    assert page(4, 2, 0) == [3, 4]


def test_a_route_names_addresses_in_the_form_that_clients_open(place: Place) -> None:
    routes = [place.call(f"/route?uid={place.name('u')}") for _ in place.nodes]
    assert {(route["tcp_addr"], route["ws_addr"]) for route in routes} == {
        (node.tcp, f"ws://{node.ws}") for node in place.nodes
    }


def test_an_error_of_http_is_status_400_with_its_text(place: Place) -> None:
    for path, body in (("/channel", {}), ("/message/send", {"channel_type": GROUP}), ("/user/token", {"uid": ""})):
        status, answer = place.http(path, body)
        assert (status, answer["status"]) == (400, 400)
        assert isinstance(answer["msg"], str) and answer["msg"]


# The rest of the protocol that only old clients use ------------------------------------------------------------------


def test_what_only_servers_send_or_nobody_answers_leaves_the_connection_alone(node: Place) -> None:
    client = node.login(node.name("u"))
    sub = b"\x00" + put_text("1") + put_text("g") + b"\x02\x00" + put_text("")
    odd = {
        "SUB": put_frame(10, 0, sub),
        "PONG": b"\x80",
        "DISCONNECT": put_frame(9, 0, b"\x00" + put_text("bye")),
        "EVENT": put_frame(12, 0, put_text("1") + put_text("stream.delta") + bytes(8)),
        "SENDACK": put_frame(4, 0, bytes(17)),
    }
    for frame in odd.values():
        client.transport.write(frame + PING)
        expect(client, PONG)
    assert client.inbox == []
