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
    """One node of the cluster. spare: started, but no first member; it waits to be added."""

    node: int
    api_port: int
    tcp_port: int
    ws_port: int
    links_port: int
    spare: bool = False

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


def lay_out(count: int, *, spares: int = 0, base_port: int = DEFAULT_BASE_PORT) -> list[DevNode]:
    """Raises ValueError where there is no room for so many nodes or ports."""
    if count < 1 or count + spares > MAX_NODES:
        raise ValueError(f"{count + spares} nodes; 1 to {MAX_NODES} run on one machine")
    if not 1024 <= base_port <= MAX_PORT - SPAN:
        raise ValueError(f"--base-port {base_port}; give 1024 to {MAX_PORT - SPAN}")
    return [
        DevNode(
            FIRST_NODE + number,
            base_port + _API + number,
            base_port + _TCP + number,
            base_port + _WS + number,
            base_port + _LINKS + number,
            spare=number >= count,
        )
        for number in range(count + spares)
    ]


def configuration(node: DevNode, nodes: list[DevNode], directory: str) -> Mapping[str, Any]:  # any: values of YAML
    """The node's wk.yaml. No secret: its nodes meet on loopback only."""
    members = [each for each in nodes if not each.spare]
    cluster: dict[str, object] = {
        "nodeId": node.node,
        "addr": f"tcp://{node.addr}",
        "serverAddr": node.addr,
        "apiUrl": node.api,
    }
    if node.spare:
        cluster["seed"] = f"{members[0].node}@{members[0].addr}"
    else:
        cluster["initNodes"] = [f"{each.node}@{each.addr}" for each in members]
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


def advice(nodes: list[DevNode]) -> str:
    """What to do with the cluster, in lines that fit 80 columns. The defaults of the other commands are left out."""
    members = [each for each in nodes if not each.spare]
    first, last = members[0], members[-1]
    is_default = first.api_port == DEFAULT_BASE_PORT + _API
    api = "" if is_default else f" --api {first.api}"
    tcp = "" if is_default else f" --tcp {first.tcp}"
    lines = [
        "Try it in another terminal:",
        f"  wukong cluster status{api}",
        f"  wukong channel create lunch alice bob{api}",
        f"  wukong chat --uid alice --group lunch{tcp}",
        f"  wukong chat --uid bob --group lunch --tcp {last.tcp}",
    ]
    spares = [each for each in nodes if each.spare]
    lines += [f"  wukong cluster add {each.node} {each.addr}{api}" for each in spares[:1]]
    lines.append("Is a member missed? Adds and sends at all nodes in turn:")
    lines.append("  wukong demo --count 100 \\")
    for option, values in (("--api", [each.api for each in members]), ("--tcp", [each.tcp for each in members])):
        texts = [",".join(values[start : start + 3]) for start in range(0, len(values), 3)]
        end = " \\" if option == "--api" else ""
        lines.append(f"    {option} " + ",\\\n".join(texts) + end)
    return "\n".join(lines)
