import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong.errors import FrameTooLarge, ProtocolError
from wukong.protocol.json_stream import NESTING_LIMIT_COUNT, JsonSplitter


def texts_of(*reads: bytes, limit_bytes: int = 1 << 20) -> list[bytes]:
    splitter = JsonSplitter(limit_bytes=limit_bytes)
    texts = []
    for data in reads:
        splitter.receive_data(data)
        while (text := splitter.next_text()) is not None:
            texts.append(text)
    return texts


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


TRICKY = [
    b"{}",
    b'{"a":1}',
    b'{"a":"}"}',
    b'{"a":"{"}',
    b'{"a":"\\""}',
    b'{"a":"\\\\"}',
    b'{"a":"\\\\\\"}"}',
    b'{"}":{"{":"]"}}',
    b'{ "a" : [ { } , { "b" : [ ] } ] }',
    b'{"a":{"b":{"c":{"d":{"e":{}}}}}}',
    '{"a":"\u4f60\u597d \U0001f600"}'.encode(),
    b'{"a":"\\u007b"}',
    b"[]",
    b'[{"method":"ping"},["]"]]',
    b'{\n"a"\t:\r1}',
]


@pytest.mark.parametrize("text", TRICKY)
def test_a_value_comes_out_whole_cut_anywhere_and_byte_by_byte(text: bytes) -> None:
    assert texts_of(text) == [text]
    for cut in range(1, len(text)):
        assert texts_of(text[:cut], text[cut:]) == [text]
    assert texts_of(*one_by_one(text)) == [text]


@pytest.mark.parametrize("between", [b"", b" ", b"\r\n\t "])
def test_values_follow_each_other_with_blanks_or_without(between: bytes) -> None:
    stream = between + between.join(TRICKY) + between
    assert texts_of(stream) == TRICKY
    assert texts_of(*one_by_one(stream)) == TRICKY


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\{}[] ', max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.text(max_size=4), json_values, max_size=4), max_size=5), st.data())
@settings(max_examples=200, deadline=None)
def test_any_objects_come_out_however_the_stream_is_cut(values: list[dict[str, Any]], data: st.DataObject) -> None:
    encoded = [json.dumps(value).encode() for value in values]
    stream = b"".join(encoded)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reads = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert texts_of(*reads) == encoded


@pytest.mark.parametrize("text", [b"x", b"1", b'"text"', b"true", b"}", b"{x", b"{,", b"\x00", b"\xef\xbb\xbf{}"])
def test_what_cannot_become_an_object_is_an_error(text: bytes) -> None:
    splitter = JsonSplitter(limit_bytes=1000)
    splitter.receive_data(b'{"first":1}' + text)
    assert splitter.next_text() == b'{"first":1}'
    for _ in range(2):
        with pytest.raises(ProtocolError):
            splitter.next_text()


def test_whether_a_closed_value_is_json_is_for_its_reader_to_judge() -> None:
    assert texts_of(b"{1:2}[}]") == [b"{1:2}", b"[}]"]


@pytest.mark.parametrize("kind", [b'{"a":%s}', b"[%s]"])
def test_values_nested_too_deeply_are_refused(kind: bytes) -> None:
    text = b"1"
    for _ in range(NESTING_LIMIT_COUNT):
        text = kind % text
    assert texts_of(text) == [text]
    assert texts_of(*one_by_one(text)) == [text]
    for _ in range(4):
        text = kind % text
    for reads in ([text], one_by_one(text)):
        with pytest.raises(ProtocolError, match="nested more than 128"):
            texts_of(*reads)


def test_values_over_the_limit_are_refused_before_they_are_complete() -> None:
    text = b'{"a":"' + b"x" * 92 + b'"}'
    assert texts_of(text, limit_bytes=100) == [text]
    for reads in ([text + b" " + text[:-1] + b'x"}'], one_by_one(text[:-2] + b'x"}')):
        with pytest.raises(FrameTooLarge):
            texts_of(*reads, limit_bytes=99)
    with pytest.raises(FrameTooLarge) as caught:
        texts_of(text[:60], text[60:] + b" " * 10, limit_bytes=50)
    assert caught.value.limit_bytes == 50


def test_blanks_between_values_are_not_kept() -> None:
    splitter = JsonSplitter(limit_bytes=10)
    for _ in range(100):
        splitter.receive_data(b" \r\n\t" * 100)
        assert splitter.next_text() is None
        assert splitter.buffered_bytes == 0


def test_an_incomplete_value_does_not_keep_the_read_that_brought_it() -> None:
    splitter = JsonSplitter(limit_bytes=1000)
    splitter.receive_data(b'{"a":1}' * 100 + b'{"b"')
    while splitter.next_text() is not None:
        pass
    assert splitter.buffered_bytes == 4
    assert bytes(splitter._data) == b'{"b"'
    splitter.receive_data(b":2}")
    assert splitter.next_text() == b'{"b":2}'
    assert splitter.next_text() is None
    assert splitter.buffered_bytes == 0


def test_reads_may_come_before_the_earlier_ones_are_drained() -> None:
    splitter = JsonSplitter(limit_bytes=1000)
    splitter.receive_data(b'{"a":1}{"b":')
    splitter.receive_data(b'2}{"c"')
    assert [splitter.next_text(), splitter.next_text()] == [b'{"a":1}', b'{"b":2}']
    splitter.receive_data(b":3}")
    assert splitter.next_text() == b'{"c":3}'


def test_a_long_value_in_many_reads_is_searched_once() -> None:
    """Ten times the reads of one value must not mean a hundred times the work: counted in bytes searched."""
    text = b'{"payload":"' + b"QUJD\\n" * 20_000 + b'","deep":{"a":{"b":{"c":{}}}}}'
    splitter = JsonSplitter(limit_bytes=1 << 20)
    searched = []
    for at in range(0, len(text), 500):
        splitter.receive_data(text[at : at + 500])
        if (found := splitter.next_text()) is not None:
            assert found == text
            break
        searched.append(splitter._searched)
    assert searched == sorted(searched)
    assert all(later - earlier <= 501 for earlier, later in pairwise(searched))
