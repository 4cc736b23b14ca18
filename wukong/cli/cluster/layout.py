"""Which nodes a cluster on this machine has, where they listen, and what their configuration files say. Pure."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

FIRST_NODE: Final = 1001
HOST: Final = "127.0.0.1"
DEFAULT_BASE_PORT: Final = 5000
# More is no cluster for one machine, and the ports of one kind stay in their hundred.
MAX_NODES: Final = 9
MAX_PORT: Final = 65_535

# From the base port: with the default base, node 1001 listens where one node without a configuration would.
_API, _TCP, _WS, _LINKS = 1, 100, 200, 400
SPAN: Final = _LINKS + MAX_NODES


class DevNode(NamedTuple):
    """One node and its ports, all on loopback."""

    node: int
    api_port: int
    tcp_port: int
    ws_port: int
    links_port: int

    @property
    def api(self) -> str:
        return f"http://{HOST}:{self.api_port}"

    @property
    def tcp(self) -> str:
        return f"{HOST}:{self.tcp_port}"

    @property
    def ws(self) -> str:
        return f"ws://{HOST}:{self.ws_port}"

    @property
    def addr(self) -> str:
        """Where the other nodes connect."""
        return f"{HOST}:{self.links_port}"

    def ports(self) -> dict[int, str]:
        """Port -> what it is for."""
        return {
            self.api_port: "API",
            self.tcp_port: "TCP",
            self.ws_port: "WebSocket",
            self.links_port: "other nodes",
        }


class Plan(NamedTuple):
    """nodes: what is started. seed: a member of the cluster that they join, or None if they form one."""

    nodes: list[DevNode]
    seed: DevNode | None
    base_port: int


def lay_out(count: int, *, first: int = FIRST_NODE, base_port: int = DEFAULT_BASE_PORT) -> Plan:
    """Nodes first, first + 1, ... Each has the same ports whenever it is started. Those that do not begin with
    FIRST_NODE join the cluster in which that one is. Raises ValueError where there is no room."""
    last = first + count - 1
    if count < 1 or first < FIRST_NODE or last >= FIRST_NODE + MAX_NODES:
        raise ValueError(f"nodes {first} to {last}: {FIRST_NODE} to {FIRST_NODE + MAX_NODES - 1} run on one machine")
    if not 1024 <= base_port <= MAX_PORT - SPAN:
        raise ValueError(f"--base-port {base_port}: give 1024 to {MAX_PORT - SPAN}")
    nodes = [_node(number, base_port) for number in range(first, first + count)]
    return Plan(nodes, None if first == FIRST_NODE else _node(FIRST_NODE, base_port), base_port)


def _node(number: int, base_port: int) -> DevNode:
    port = base_port + number - FIRST_NODE
    return DevNode(number, port + _API, port + _TCP, port + _WS, port + _LINKS)


def configuration(node: DevNode, plan: Plan, directory: str) -> Mapping[str, Any]:  # any: values of YAML
    """The node's wk.yaml. No secret: its nodes meet on loopback only."""
    cluster: dict[str, object] = {
        "nodeId": node.node,
        "addr": f"tcp://{node.addr}",
        "serverAddr": node.addr,
        "apiUrl": node.api,
    }
    if plan.seed is not None:
        cluster["seed"] = f"{plan.seed.node}@{plan.seed.addr}"
    else:
        cluster["initNodes"] = [f"{each.node}@{each.addr}" for each in plan.nodes]
    return {
        "mode": "release",
        "rootDir": directory,
        "httpAddr": f"{HOST}:{node.api_port}",
        "addr": f"tcp://{node.tcp}",
        "wsAddr": node.ws,
        "external": {"ip": HOST},
        "manager": {"on": False},
        "cluster": cluster,
    }


def advice(plan: Plan) -> str:
    """What to do with the cluster, in lines that fit 80 columns. The defaults of the other commands are left out."""
    first, last = plan.nodes[0], plan.nodes[-1]
    api = "" if first.api_port == DEFAULT_BASE_PORT + _API else f" --api {first.api}"
    tcp = "" if first.api_port == DEFAULT_BASE_PORT + _API else f" --tcp {first.tcp}"
    lines = [
        "Try it in another terminal:",
        f"  wukong cluster status{api}",
        f"  wukong channel create lunch alice bob{api}",
        f"  wukong chat --uid alice --group lunch{tcp}",
        f"  wukong chat --uid bob --group lunch --tcp {last.tcp}",
    ]
    if plan.seed is not None:
        return "\n".join(lines)
    lines += ["Is a member missed? Adds and sends at all nodes in turn:", "  wukong demo --count 100 \\"]
    for option, values in (("--api", [each.api for each in plan.nodes]), ("--tcp", [each.tcp for each in plan.nodes])):
        texts = [",".join(values[start : start + 3]) for start in range(0, len(values), 3)]
        end = " \\" if option == "--api" else ""
        lines.append(f"    {option} " + ",\\\n".join(texts) + end)
    following = last.node + 1
    if following < FIRST_NODE + MAX_NODES:
        base = "" if plan.base_port == DEFAULT_BASE_PORT else f" --base-port {plan.base_port}"
        lines += ["One more node, which joins by itself:", f"  wukong cluster dev --nodes 1 --first {following}{base}"]
    return "\n".join(lines)
