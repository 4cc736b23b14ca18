"""The handshake without sockets: what it proves, and everything that must not pass."""

import random
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong.links import handshake
from wukong.links.handshake import Answering, Dialing, HandshakeRefused, Keys, Reason

SECRET = b"correct horse battery staple"


def dialing(node: int = 1, target: int = 2, secret: bytes = SECRET, nonce: bytes | None = None) -> Dialing:
    return Dialing(secret=secret, node=node, target=target, nonce=nonce or random.randbytes(32))


def answering(node: int = 2, secret: bytes = SECRET, nonce: bytes | None = None) -> Answering:
    return Answering(secret=secret, node=node, nonce=nonce or random.randbytes(32))


Change = Callable[[str, bytes], bytes]


def shake(dialer: Dialing, listener: Answering, change: Change = lambda step, data: data) -> list[bytes]:
    """All frames of a handshake, as they were sent. Raises HandshakeRefused of whoever refuses first."""
    frames = [dialer.hello]
    frames.append(listener.receive(change("hello", frames[-1])))
    frames.append(dialer.receive(change("challenge", frames[-1])))
    assert listener.receive(change("proof", frames[-1])) == b""
    frames.append(listener.welcome)
    assert dialer.receive(change("welcome", frames[-1])) == b""
    return frames


def refused(act: Callable[[], object]) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        act()
    return caught.value


@pytest.mark.parametrize("secret", [SECRET, b""])
def test_two_nodes_with_one_secret_share_keys(secret: bytes) -> None:
    dialer, listener = dialing(secret=secret), answering(secret=secret)
    frames = shake(dialer, listener)
    assert listener.peer == 1
    assert dialer.keys == listener.keys
    assert isinstance(dialer.keys, Keys)
    assert dialer.keys.dialer != dialer.keys.listener
    assert max(map(len, frames)) <= handshake.FRAME_LIMIT_BYTES // 2


def test_every_connection_has_other_keys_and_needs_both_nonces() -> None:
    keys = set()
    for one, two in ((b"a", b"b"), (b"a", b"c"), (b"d", b"b"), (b"b", b"a")):
        dialer = dialing(nonce=one * 32)
        shake(dialer, answering(nonce=two * 32))
        assert dialer.keys is not None
        keys.update(dialer.keys)
    assert len(keys) == 8


def test_nobody_is_proven_before_the_proof() -> None:
    dialer, listener = dialing(), answering()
    challenge = listener.receive(dialer.hello)
    assert (listener.peer, listener.keys, dialer.keys) == (0, None, None)
    listener.receive(dialer.receive(challenge))
    assert dialer.keys is None
    assert listener.keys is not None


def test_a_dialer_with_another_secret_is_refused_and_learns_nothing_to_guess_with() -> None:
    dialer, listener = dialing(secret=b"guess"), answering()
    fault = refused(lambda: shake(dialer, listener))
    assert (fault.reason, fault.by_peer) == (Reason.PROOF, False)
    assert listener.keys is None
    told = refused(lambda: dialer.receive(fault.answer))
    assert (told.reason, told.by_peer) == (Reason.PROOF, True)
    # magic, step, version and reason: no proof
    assert len(fault.answer) == 7


def test_a_listener_that_does_not_know_the_secret_is_refused() -> None:
    dialer = dialing()
    forged = answering(secret=b"guess")
    dialer.receive(forged.receive(dialer.hello))
    forged.keys = Keys(b"", b"")
    assert refused(lambda: dialer.receive(forged.welcome)).reason is Reason.PROOF
    assert dialer.keys is None


@pytest.mark.parametrize("step", ["hello", "challenge", "proof", "welcome"])
def test_a_handshake_with_any_bit_flipped_gives_no_keys_to_the_other_side(step: str) -> None:
    sizes = {"hello": 43, "challenge": 41, "proof": 38, "welcome": 38}
    for bit in range(8 * sizes[step]):

        def flip(at: str, data: bytes, bit: int = bit) -> bytes:
            assert at != step or len(data) == sizes[step]
            if at == step:
                flipped = bytearray(data)
                flipped[bit // 8] ^= 1 << bit % 8
                return bytes(flipped)
            return data

        dialer, listener = dialing(), answering()
        refused(lambda dialer=dialer, listener=listener, flip=flip: shake(dialer, listener, flip))  # type: ignore[misc]
        assert dialer.keys is None
        assert listener.keys is None or step == "welcome"


def test_a_recorded_handshake_does_not_pass_again() -> None:
    frames = shake(dialing(), answering())
    again = answering()
    again.receive(frames[0])
    assert refused(lambda: again.receive(frames[2])).reason is Reason.PROOF
    late = dialing()
    late.receive(frames[1])
    assert refused(lambda: late.receive(frames[3])).reason is Reason.PROOF


def test_a_proof_is_of_one_side() -> None:
    dialer, listener = dialing(), answering()
    proof = dialer.receive(listener.receive(dialer.hello))
    mirrored = bytearray(proof)
    mirrored[4] = 4  # a WELCOME with the dialer's proof
    assert refused(lambda: dialer.receive(bytes(mirrored))).reason is Reason.PROOF


def test_a_node_that_is_made_to_dial_itself_is_not_fooled() -> None:
    # The address of node 2 is the attacker's; he hands on to node 1's own listener, posing as node 2.
    dialer, listener = dialing(node=1, target=2), answering(node=1)
    assert refused(lambda: listener.receive(dialer.hello)).reason is Reason.IDENTITY
    posing = bytearray(dialer.hello)
    posing[7:11] = b"\0\x02\0\x01"
    listener = answering(node=1)
    challenge = bytearray(listener.receive(bytes(posing)))
    challenge[7:9] = b"\0\x02"
    proof = dialer.receive(bytes(challenge))
    assert refused(lambda: listener.receive(proof)).reason is Reason.PROOF


def test_a_listener_that_is_another_node_is_refused_by_both() -> None:
    dialer, listener = dialing(target=2), answering(node=3)
    fault = refused(lambda: listener.receive(dialer.hello))
    assert fault.reason is Reason.IDENTITY
    assert refused(lambda: dialer.receive(fault.answer)).by_peer
    # And one that hides it.
    honest = answering(node=3)
    challenge = honest.receive(dialing(node=1, target=3).hello)
    assert refused(lambda: dialing(target=2).receive(challenge)).reason is Reason.IDENTITY


def test_this_nodes_own_number_is_refused() -> None:
    assert refused(lambda: answering(node=2).receive(dialing(node=2, target=2).hello)).reason is Reason.IDENTITY


@pytest.mark.parametrize("node", [0, 1_024, 65_535])
def test_a_number_that_no_node_has_is_refused(node: int) -> None:
    assert refused(lambda: answering().receive(dialing(node=node).hello)).reason is Reason.MALFORMED


def test_another_major_version_is_named_on_both_sides() -> None:
    newer = bytearray(dialing().hello)
    newer[5] = 9
    # Whatever else a newer version has in its HELLO.
    for hello in (bytes(newer), bytes(newer[:6]), bytes(newer) + bytes(50)):
        fault = refused(lambda hello=hello: answering().receive(hello))  # type: ignore[misc]
        assert fault.reason is Reason.VERSION
        assert str(fault) == "a node speaks link version 9, this node 1"
    told = refused(lambda: dialing().receive(fault.answer[:5] + b"\x09" + fault.answer[6:]))
    assert (told.reason, told.by_peer) == (Reason.VERSION, True)
    assert str(told) == "peer speaks link version 9, this node 1"


def test_a_newer_minor_version_may_say_more() -> None:
    dialer, listener = dialing(), answering()
    dialer.hello += b"more"
    shake(dialer, listener)
    assert dialer.keys == listener.keys


def test_frames_out_of_turn_are_refused() -> None:
    frames = shake(dialing(), answering())
    for index in (1, 2, 3):
        assert refused(lambda index=index: answering().receive(frames[index])).reason is Reason.MALFORMED  # type: ignore[misc]
    for index in (0, 2, 3):
        assert refused(lambda index=index: dialing().receive(frames[index])).reason is Reason.MALFORMED  # type: ignore[misc]
    listener = answering()
    listener.receive(frames[0])
    assert refused(lambda: listener.receive(frames[0])).reason is Reason.MALFORMED


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=128), st.booleans())
def test_random_bytes_are_refused_and_never_raise_anything_else(data: bytes, with_magic: bool) -> None:
    data = b"WKIL" + data if with_magic else data
    for side in (dialing(), answering()):
        before = side.keys
        with suppress(HandshakeRefused):
            side.receive(data)
        assert side.keys is before is None
