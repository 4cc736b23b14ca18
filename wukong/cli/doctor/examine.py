"""All checks in order, on what is there: a running server or a stopped one, a readable configuration or none."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from wukong.cli.doctor import cluster, datadir, disk, machine, peers, ports, reach, settings
from wukong.cli.doctor.cluster import Told
from wukong.cli.doctor.datadir import Identity
from wukong.cli.doctor.finding import NOTE, Finding, not_checked
from wukong.config import Config
from wukong.links.addresses import split_address


class Examination(NamedTuple):
    findings: list[Finding]
    config: Config | None
    told: list[Told]


async def examine(config_path: Path | None, environ: Mapping[str, str], urls: Sequence[str], token: str) -> Examination:
    """urls: APIs to ask; none: the one of the configuration, if its server runs. token: over the configuration's."""
    config, found = settings.read(config_path, environ)
    pid = 0
    identity: Identity | None = None
    if config is not None and config_path is None and urls and not config.data_dir.exists():
        # A cluster is looked at from a machine that has no node.
        config, found = None, [not_checked("configuration", "no node here; --config names its file")]
    elif config is None:
        found.append(not_checked("data", "ports, disk, data and back ends: the configuration says where they are"))
    if config is not None:
        token = token or config.manager_token
        pid = datadir.holder(config.data_dir)
        found += settings.look_at_tls(config)
        on_disk, identity = look_at_files(config, pid)
        found += on_disk
        found += ports.look_at_served_ports(config, pid) if pid else ports.look_at_free_ports(config)
    found += [machine.look_at_files(max(pid, 0)), machine.look_at_kernel(), machine.look_at_own_clock()]
    if config is not None:
        found += await reach.look_at_back_ends(config)
        if not urls and pid:
            urls = [own_url(config)]
    told = await cluster.ask_all(urls, token) if urls else []
    if told:
        stopped = own_url(config) if config is not None and not pid else ""
        found += cluster.judge(told, identity, stopped=stopped)
    else:
        why = "its API is not asked while it is down; --api asks another node's"
        found.append(Finding("api", NOTE, f"no server runs on this configuration: {why}"))
    if config is not None:
        found += await look_at_peers(config, identity, told, running=pid != 0)
    return Examination(found, config, told)


def look_at_files(config: Config, pid: int) -> tuple[list[Finding], Identity | None]:
    directory = config.data_dir
    found = datadir.look_at_permissions(directory)
    found += [disk.look_at_room(directory), disk.look_at_kind(directory), disk.look_at_sync(directory)]
    identity, on_data = datadir.look_at_data(directory, config)
    found += on_data
    if pid:
        found.append(datadir.running_note(pid))
    elif identity is not None:
        found.append(datadir.look_at_log(directory, identity))
    return found, identity


def own_url(config: Config) -> str:
    host, port = config.http_addr
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def look_at_peers(
    config: Config, identity: Identity | None, told: Sequence[Told], *, running: bool
) -> list[Finding]:
    addresses = peer_addresses(config, told, running=running)
    if not addresses:
        return []
    answers = await peers.ask_all(addresses, config.cluster.secret)
    number = identity.cluster if identity is not None else 0
    return peers.judge(addresses, answers, cluster=number, slots=config.wukong.slot_count)


def peer_addresses(config: Config, told: Sequence[Told], *, running: bool) -> dict[int, tuple[str, int]]:
    """Nodes that the configuration names, or the cluster. This node itself only where it runs: whether it runs with
    the secret of this file."""
    if config.cluster.is_single_node:
        return {}
    named = [*config.cluster.init_nodes, *([config.cluster.seed] if config.cluster.seed else [])]
    found = {node.node_id: (node.host, node.port) for node in named}
    for each in told:
        for node in each.status.nodes if each.status is not None else []:
            address = split_address(node.addr)
            if address is not None and node.state != "unknown":
                # Where the cluster knows it now counts more than where a file says it began.
                found[node.id] = address
    if not running:
        found.pop(config.cluster.node_id, None)
    return found
