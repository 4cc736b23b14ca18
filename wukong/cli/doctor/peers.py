"""The other nodes, asked over the port on which nodes talk: are they there, and do they have the same secret?

A node tells whoever knows the secret its facts. The question is asked under a number that no node has, so that no link
of a node is replaced by it, and tells nothing itself. Layout: docs/design/links.md.
"""

import asyncio
import secrets
from collections.abc import Mapping
from typing import Final, NamedTuple

from wukong import __version__
from wukong.cli.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from wukong.cli.doctor.reach import reason
from wukong.cluster.formation import Facts, read_facts
from wukong.errors import ProtocolError
from wukong.limits import MAX_NODE_ID
from wukong.links.frames import FrameReader, Opener, frame, split_messages
from wukong.links.handshake import FRAME_LIMIT_BYTES, NONCE_BYTES, Dialing, HandshakeRefused, Reason
from wukong.links.kinds import FACTS
from wukong.links.options import LinkOptions

CHECK: Final = "peers"
VERSIONS: Final = "versions"
TIMEOUT_S: Final = 3.0
_READ_BYTES: Final = 64 * 1024


class Answer(NamedTuple):
    """refused: why there was no link; unreached: why there was no connection; both "" for a node that knows the secret,
    whose facts are None if it did not tell them in time."""

    facts: Facts | None = None
    refused: str = ""
    reason: Reason | None = None
    unreached: str = ""


async def ask_all(addresses: Mapping[int, tuple[str, int]], secret: str) -> dict[int, Answer]:
    """addresses: node -> host and port. The questions are asked at the same time."""
    unused = next(number for number in range(MAX_NODE_ID, 0, -1) if number not in addresses)
    answers = await asyncio.gather(*(ask(unused, node, *address, secret) for node, address in addresses.items()))
    return dict(zip(addresses, answers, strict=True))


async def ask(own: int, node: int, host: str, port: int, secret: str) -> Answer:
    """own: the number under which to ask."""
    is_proven = False
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                nonce = secrets.token_bytes(NONCE_BYTES)
                dialing = Dialing(secret=secret.encode(), node=own, target=node, nonce=nonce)
                frames = FrameReader(FRAME_LIMIT_BYTES)
                writer.write(frame(dialing.hello))
                while dialing.keys is None:
                    if answer := dialing.receive(bytes(await _next(reader, frames))):
                        writer.write(frame(answer))
                is_proven = True
                options = LinkOptions()
                frames.limit_bytes = 2 * max(options.facts_limit_bytes, options.frame_bytes)
                opener = Opener(dialing.keys.listener)
                while True:
                    for kind, _, body in split_messages(opener.open(await _next(reader, frames))):
                        if kind == FACTS:
                            return Answer(read_facts(node, body))
            finally:
                writer.transport.abort()
    except HandshakeRefused as refused:
        # Proven, and not known there: the secret is right.
        return Answer() if refused.reason is Reason.STRANGER else Answer(refused=str(refused), reason=refused.reason)
    except ProtocolError as fault:
        return Answer(refused=str(fault))
    except (OSError, TimeoutError, EOFError) as error:
        if is_proven:
            return Answer()
        if isinstance(error, EOFError):
            return Answer(refused="it closed the connection without an answer; is it a node?")
        return Answer(unreached=reason(error))


async def _next(reader: asyncio.StreamReader, frames: FrameReader) -> memoryview:
    """The next whole frame. Raises EOFError, and what frames raise."""
    while (body := frames.next_frame()) is None:
        data = await reader.read(_READ_BYTES)
        if not data:
            raise EOFError
        frames.receive(data)
    return body


def judge(
    addresses: Mapping[int, tuple[str, int]], answers: Mapping[int, Answer], *, cluster: int, slots: int
) -> list[Finding]:
    """cluster: number of this node's cluster, 0 if it is in none. slots: of the configuration."""
    found = [_judge(node, *addresses[node], answer, cluster, slots) for node, answer in answers.items()]
    versions = {node: answer.facts.version for node, answer in answers.items() if answer.facts is not None}
    return found + judge_versions({node: version for node, version in versions.items() if version})


def _judge(node: int, host: str, port: int, answer: Answer, cluster: int, slots: int) -> Finding:
    name = f"node {node} at {host}:{port}"
    if answer.unreached:
        text = f"missing peer: {name} cannot be reached: {answer.unreached}"
        return Finding(CHECK, ERROR, text, "start it, open the way (firewall), or correct its address")
    if answer.reason is Reason.PROOF:
        text = f"wrong secret: {name} has another cluster.secret than this configuration"
        return Finding(CHECK, ERROR, text, "set the same cluster.secret on every node, and restart those that change")
    if answer.reason is Reason.IDENTITY:
        text = f"{name}: {answer.refused}"
        return Finding(CHECK, ERROR, text, "correct cluster.initNodes, or cluster.nodeId there")
    if answer.reason is Reason.VERSION:
        return Finding(CHECK, ERROR, f"mixed versions: {name}: {answer.refused}", "run the same version on every node")
    if answer.refused:
        text = f"who answers for {name} is no node of a cluster: {answer.refused}"
        return Finding(CHECK, ERROR, text, "correct its address")
    facts = answer.facts
    if facts is None:
        return Finding(CHECK, NOTE, f"{name} knows the secret, and told nothing of itself within {TIMEOUT_S:g} s")
    if cluster and facts.cluster and facts.cluster != cluster:
        text = f"{name} belongs to another cluster ({facts.cluster:x}) than this node ({cluster:x})"
        return Finding(CHECK, ERROR, text, "one of them has the wrong data directory, or the wrong address is given")
    if facts.slots and facts.slots != slots:
        text = f"{name} has {facts.slots} slots, this configuration {slots}"
        return Finding(CHECK, ERROR, text, "set the same wukong.slotCount on every node")
    return Finding(CHECK, OK, f"{name} is there and has the same secret")


def judge_versions(versions: Mapping[int, str]) -> list[Finding]:
    """versions: node -> what it runs. Of this program too."""
    return [
        Finding(
            VERSIONS,
            WARNING,
            f"mixed versions: node {node} runs {version}, this program is {__version__}",
            "finish the update: run the same version on every node",
        )
        for node, version in sorted(versions.items())
        if version != __version__
    ]
