"""docs/compatibility.md against a running server, and a wk.yaml in which every key of WuKongIM v2.2.5 is set.

The lists of routes and keys here are those of http-api.md, sections 4, 13, 15 and 18; the page has to name each of
them, and the server has to be as the page says.
"""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.support.server import ROOT, ServerProcess, free_ports
from wukong.config import config_keys
from wukong.config.load import _UNSERVED, IGNORED_KEYS, _is_ignored
from wukong.protocol.packets import PacketType

PAGE = (ROOT / "docs/compatibility.md").read_text()
STATES = {"same", "different", "absent"}
PLAIN_404 = "404 page not found"

ROUTES = """
    GET /health
    GET /migrate/result
    GET /docs
    GET /docs/
    GET /docs/openapi.json
    GET /docs/health
    GET /route
    POST /route/batch
    GET /connz
    GET /varz
    GET /varz/setting
    POST /user/token
    POST /user/device_quit
    POST /user/onlinestatus
    GET /user/systemuids
    POST /user/systemuids_add
    POST /user/systemuids_remove
    POST /user/systemuids_add_to_cache
    POST /user/systemuids_remove_from_cache
    POST /user/update_plugin_no
    POST /conn/remove
    POST /conn/kick
    POST /channel
    POST /channel/info
    POST /channel/delete
    POST /channel/subscriber_add
    POST /channel/subscriber_remove
    POST /channel/subscriber_remove_all
    POST /tmpchannel/subscriber_set
    POST /channel/blacklist_add
    POST /channel/blacklist_set
    POST /channel/blacklist_remove
    POST /channel/blacklist_remove_all
    POST /channel/whitelist_add
    POST /channel/whitelist_set
    POST /channel/whitelist_remove
    POST /channel/whitelist_remove_all
    GET /channel/whitelist
    POST /message/send
    POST /message/sendbatch
    POST /message/sync
    POST /message/syncack
    POST /messages
    POST /message
    GET /message/byclientmsgno
    POST /message/event
    POST /message/eventsync
    POST /channel/messagesync
    GET /channel/max_message_seq
    GET /channel/last_message
    POST /conversations/clearUnread
    POST /conversations/setUnread
    POST /conversations/delete
    POST /conversation/sync
    POST /conversation/syncMessages
    POST /conversation/channels
    POST /conversation/syncByChannels
    POST /manager/login
    GET /tag
    POST /tag/remove
    GET /tags
    ANY /plugins/:plugin/*path
    GET /plugins
    POST /pluginconfig/:plugin
    POST /plugin/bind
    GET /plugin/bind
    POST /plugin/unbind
    POST /plugin/uninstall
    GET /cluster/nodes
    GET /cluster/node
    GET /cluster/simpleNodes
    GET /cluster/nodes/:id/channels
    GET /cluster/info
    GET /cluster/logs
    GET /cluster/slots
    GET /cluster/allslot
    GET /cluster/slots/:id/config
    POST /cluster/slots/:id/migrate
    GET /cluster/slots/:id/replicas
    GET /cluster/slots/:id/localReplica
    POST /cluster/slots/:id/election
    GET /cluster/channels
    GET /cluster/channels/:channel_id/:channel_type/subscribers
    GET /cluster/channels/:channel_id/:channel_type/denylist
    GET /cluster/channels/:channel_id/:channel_type/allowlist
    GET /cluster/channels/:channel_id/:channel_type/config
    POST /cluster/channels/:channel_id/:channel_type/migrate
    POST /cluster/channels/:channel_id/:channel_type/start
    POST /cluster/channels/:channel_id/:channel_type/stop
    GET /cluster/channels/:channel_id/:channel_type/replicas
    GET /cluster/channels/:channel_id/:channel_type/localReplica
    POST /cluster/channel/status
    GET /cluster/messages
    POST /cluster/message/eventsync
    GET /cluster/users
    GET /cluster/devices
    GET /cluster/conversations
    GET /cluster/devtools/checkLogConflict
    POST /stress/add
    POST /stress/remove
    POST /stress/start
    POST /stress/stop
    POST /stress/report
    GET /stress/infoList
    GET /stress/templates
    GET /metrics
    GET /metrics/app
    GET /metrics/cluster
    GET /metrics/system
    GET /debug/pprof/
"""

# Every key that v2.2.5 reads, with its default where one can be written; addresses and folders are put in by the test.
EVERY_KEY = """
mode: debug
rootDir: {root}
dataDir: {root}/data
ginMode: release
httpAddr: 127.0.0.1:{http}
addr: tcp://127.0.0.1:{tcp}
wsAddr: ws://127.0.0.1:{ws}
wssAddr: ""
wssConfig: {{certFile: "", keyFile: ""}}
managerToken: ""
managerUID: ____manager
tokenAuthOn: false
whitelistOffOfPerson: true
disableEncryption: false
connIdleTime: 3m
timingWheelTick: 10ms
timingWheelSize: 100
disableJSONRPC: false
disableCMDMessageSync: false
stress: false
violent: false
pprofOn: false
deadlockCheck: false
oldV1Api: ""
migrateStartStep: message
eventPoolSize: 1024
unitTest: false
external:
  ip: 127.0.0.1
  autoGetExternalIP: false
  tcpAddr: 127.0.0.1:{tcp}
  wsAddr: ws://127.0.0.1:{ws}
  wssAddr: ""
  managerAddr: 127.0.0.1:{manager}
  apiUrl: http://127.0.0.1:{http}
intranet: {{tcpAddr: 127.0.0.1:{tcp}}}
manager: {{on: true, addr: 127.0.0.1:{manager}}}
demo: {{on: true, addr: 127.0.0.1:{demo}}}
webhook:
  httpAddr: http://127.0.0.1:{nobody}/v2/webhook
  grpcAddr: ""
  msgNotifyEventPushInterval: 500ms
  msgNotifyEventCountPerPush: 100
  msgNotifyEventRetryMaxCount: 5
  focusEvents: [msg.offline, msg.notify, user.onlinestatus]
agent: {{webhook: {{httpAddr: "", maxPushCount: 50}}}}
datasource: {{addr: "http://127.0.0.1:{nobody}/v1/datasource", channelInfoOn: false}}
channel: {{subscriberCompressOfCount: 0, cacheCount: 1000, createIfNoExist: true, onlineCmdChannelId: systemcmdonline}}
tmpChannel: {{suffix: "@tmp", cacheCount: 500}}
conversation:
  {{on: true, syncInterval: 1m, syncOnce: 100, userMaxCount: 1000, cacheExpire: 2h, bytesPerSave: 5242880,
   savePoolSize: 100, workerNum: 10, workerScanInterval: 5m}}
messageRetry: {{interval: 60s, scanInterval: 30s, maxCount: 5, workerCount: 128}}
tag: {{expire: 20m}}
customerService: {{visitorsSuffix: ___vstr, visitorsOn: false}}
userMsgQueueMaxSize: 0
cluster:
  nodeId: 1001
  addr: tcp://127.0.0.1:{cluster}
  serverAddr: ""
  apiUrl: ""
  initNodes: []
  seed: ""
  role: replica
  slotCount: 64
  slotReplicaCount: 3
  channelReplicaCount: 3
  reqTimeout: 10s
  tickInterval: 150ms
  pongMaxTick: 30
  channelDestoryAfterIdleTick: 3600
  heartbeatIntervalTick: 1
  electionIntervalTick: 10
  channelReactorSubCount: 128
  slotReactorSubCount: 16
db: {{shardNum: 8, slotShardNum: 8, memTableSize: 16777216}}
logger:
  level: 0
  dir: logs
  lineNum: false
  traceOn: false
  traceMaxMsgCount: 100
  loki: {{url: "", username: "", password: ""}}
auth: {{on: true, kind: jwt, superToken: "", users: ["guest:guest:[*:r]"]}}
jwt: {{secret: secret_wukongim, expire: 30d, issuer: wukongim}}
plugin: {{socketPath: /run/wukongim.sock, timeout: 1s, install: []}}
trace: {{serviceName: wukongim, serviceHostName: "wukongim[1001]", prometheusApiUrl: ""}}
deliveryMsgPoolSize: 10240
handlePoolSize: 2048
goPool: {{userProcess: 4096, channelProcess: 4096, pushProcess: 4096}}
deliver: {{deliverrCount: 32, maxRetry: 10, maxDeliverSizePerNode: 5242880}}
reactor:
  channel:
    {{subCount: 64, processIntervalTick: 50, processPoolSize: 4096, deadlineTick: 1200, tagCheckIntervalTick: 20,
     tickInterval: 200ms}}
  user:
    {{subCount: 64, processIntervalTick: 50, processPoolSize: 4096, nodePingTick: 1000, nodePongTimeoutTick: 500,
     tickInterval: 200ms}}
  checkUserLeaderIntervalTick: 20
  stream: {{subCount: 64, tickInterval: 200ms, processIntervalTick: 50, idleTimeoutTick: 10}}
coreReactor: {{channelMessageQueueSize: 100000, coreMessageQueueSize: 2000, messageQueueMaxMemorySize: 0}}
streamCache:
  {{maxMemorySize: 104857600, maxStreams: 10000, maxChunksPerStream: 10000, streamTimeout: 30m,
   chunkInactivityTimeout: 30s, cleanupInterval: 5m}}
"""


class Row(NamedTuple):
    method: str
    path: str
    state: str


def flat(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            # By YAML 1.1 the key `on` is true.
            yield prefix + ("on" if name is True else name)


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows() -> list[Row]:
    found = re.findall(r"^\| `([A-Z]+) (/[^`]*)` \| (\w+) \|", section("Routes"), re.MULTILINE)
    return [Row(*each) for each in found]


KEYS = sorted(
    flat(
        yaml.safe_load(
            EVERY_KEY.format_map(
                dict.fromkeys(("root", "http", "tcp", "ws", "manager", "demo", "cluster", "nobody"), 0)
            )
        )
    )
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A process with the file above, as it is."""
    found = ServerProcess(tmp_path_factory.mktemp("every-key"))
    found.http_port, found.tcp_port, found.ws_port, manager, demo, cluster, nobody = free_ports(7)
    config = found.directory / "wk.yaml"
    config.write_text(
        EVERY_KEY.format(
            root=found.directory,
            http=found.http_port,
            tcp=found.tcp_port,
            ws=found.ws_port,
            manager=manager,
            demo=demo,
            cluster=cluster,
            nobody=nobody,
        )
    )
    found.run_with(config)
    found.wait_ready()
    yield found
    assert found.stop() == 0, found.log_tail()


def ask(server: ServerProcess, method: str, path: str) -> tuple[int, str]:
    data = b"{}" if method == "POST" else None
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.http_url + path, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def sample(path: str) -> str:
    """A path in which every part has a value."""
    values = {"channel_type": "2", "id": "1", "channel_id": "g", "plugin": "wk.plugin.x"}
    return re.sub(r"[:*](\w+)", lambda part: values.get(part[1], "x"), path)


def test_the_page_names_every_route_once() -> None:
    named = [f"{row.method} {row.path}" for row in rows()]
    assert sorted(named) == sorted(line.strip() for line in ROUTES.strip().splitlines())
    assert len(named) == 98 + 7 + 4 + 1
    assert {row.state for row in rows()} <= STATES


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.method} {row.path}")
def test_a_route_is_served_or_absent_as_the_page_says(server: ServerProcess, row: Row) -> None:
    status, body = ask(server, "GET" if row.method == "ANY" else row.method, sample(row.path))
    assert (status == 404 and body == PLAIN_404) == (row.state == "absent"), (status, body[:200])
    assert status != 500, body[:200]


def test_the_misspelt_field_is_there(server: ServerProcess) -> None:
    request = urllib.request.Request(f"{server.http_url}/channel", b'{"channel_id":"misspelt","channel_type":2}')
    urllib.request.urlopen(request, timeout=20).close()
    path = "/cluster/channels/misspelt/2/config?node_id=1001"
    assert "learder_id" in json.loads(ask(server, "GET", path)[1])


def test_the_document_of_a_running_server_has_every_route_of_the_page(server: ServerProcess) -> None:
    paths = json.loads(ask(server, "GET", "/docs/openapi.json")[1])["paths"]
    plain = {re.sub(r"\{[^}]*\}", "{}", path) for path in paths}
    missing = [row for row in rows() if row.state != "absent" and re.sub(r"[:*]\w+", "{}", row.path) not in plain]
    assert missing == []


def test_a_file_in_which_every_key_is_set_starts_without_a_word_about_any_of_them(server: ServerProcess) -> None:
    log = server.log_path.read_text()
    assert "unknown key" not in log
    told = [
        key for key in KEYS if key not in _UNSERVED_KEYS and f"{key}: " in log and f"{key}: cannot be asked" not in log
    ]
    assert set(told) <= SAID, log
    assert [each for each in server.complaints() if "webhook" not in each] == []


_UNSERVED_KEYS = {each.partition(":")[0] for each in _UNSERVED.values()}
# What is said of a key for safety's sake, whatever server it was written for.
SAID = {"managerToken", "auth.users", "jwt.secret"}


def test_the_page_names_every_key_and_what_becomes_of_it() -> None:
    text = section("Keys")
    same_text, different_text, absent_text = re.split(r"\*\*Different\*\*|\*\*Absent\*\*", text)
    same, absent = (set(re.findall(r"`([^`]+)`", part)) for part in (same_text, absent_text))
    cells = re.findall(r"^\| (`[^|]*`) \|", different_text, re.MULTILINE)
    different = {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}
    assert same | different | absent >= set(KEYS), sorted(set(KEYS) - same - different - absent)
    with_effect = {path for key in config_keys() for path in (key.path, key.also) if path}
    assert same <= with_effect
    assert different <= with_effect
    ignored = [pattern.lower() for pattern in IGNORED_KEYS]
    for key in absent - {"poller.*"}:
        assert _is_ignored(key.lower(), ignored) or key.lower() in _UNSERVED, key
    assert not (same & absent or same & different or different & absent)


def test_the_page_names_every_frame_and_event() -> None:
    frames = re.findall(r"^\| ([A-Z]+) \| (\w+) \|", section("Frames of the client protocol"), re.MULTILINE)
    assert sorted(name for name, _ in frames) == sorted(kind.name for kind in PacketType)
    events = re.findall(r"^\| `([a-z.]+)` \| (\w+) \|", section("Webhooks"), re.MULTILINE)
    assert sorted(name for name, _ in events) == ["msg.notify", "msg.offline", "user.onlinestatus"]
    assert {state for _, state in frames + events} <= STATES


def test_the_page_names_every_trap_and_a_test_that_is_there() -> None:
    found = re.findall(r"^\| (\d+) \| .* \| ([^|]+) \| ([^|]+) \|$", section("Traps"), re.MULTILINE)
    assert [int(number) for number, _, _ in found] == list(range(1, 57))
    for number, state, shown in found:
        assert re.match(r"keep|fix|safe|shape kept|parameter kept", state), number
        test = re.match(r"`(tests/[^`]+)::(\w+)`", shown)
        if test is None:
            assert "](" in shown, f"{number}: neither a test nor a page"
            continue
        path = Path(ROOT / test[1])
        assert path.is_file() and f"def {test[2]}(" in path.read_text(), f"{number}: there is no {shown}"
    deviations = re.findall(r"^\| D-(\d+) \|", section("Deviations"), re.MULTILINE)
    assert [int(number) for number in deviations] == list(range(1, 22))
