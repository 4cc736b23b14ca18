"""Bodies as a Go server reads them: http-api.md 2.4."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wukong.api.body import BodyError, Int, Int64, Uint8, Uint32, Uint64, parse, read_body, read_uids


class Inner(msgspec.Struct, frozen=True):
    red_dot: Int = 0


INNER = Inner()


class Outer(msgspec.Struct):
    text: str = ""
    small: Uint8 = 0
    middle: Uint32 = 0
    large: Uint64 = 0
    signed: Int64 = 0
    texts: list[str] = []
    numbers: list[Uint32] = []
    data: bytes = b""
    header: Inner = INNER
    inners: list[Inner] = []


def read(text: str) -> Outer:
    return read_body(text.encode(), Outer)


ACCEPTED = [
    ("{}", Outer()),
    ("null", Outer()),
    (" \r\n\t{}", Outer()),
    ('{"text":"x","small":255}', Outer("x", 255)),
    ('{"TEXT":"x","Small":1}', Outer("x", 1)),
    ('{"unknown":{"text":[1,{"a":null}]},"text":"x"}', Outer("x")),
    ('{"text":null,"small":null,"texts":null,"data":null,"header":null,"inners":null}', Outer()),
    ('{"text":"x"} trailing', Outer("x")),
    ('{"text":"x"}{"text":"y"}', Outer("x")),
    ('{"text":"x"}\x00', Outer("x")),
    ('{"small":-0}', Outer()),
    ('{"middle":4294967295}', Outer(middle=2**32 - 1)),
    ('{"large":18446744073709551615}', Outer(large=2**64 - 1)),
    ('{"signed":-9223372036854775808}', Outer(signed=-(2**63))),
    ('{"texts":["a",null,"b"]}', Outer(texts=["a", "", "b"])),
    ('{"numbers":[1,null,3]}', Outer(numbers=[1, 0, 3])),
    ('{"data":"aGk="}', Outer(data=b"hi")),
    ('{"data":"aG\\nk\\r\\n="}', Outer(data=b"hi")),
    ('{"data":""}', Outer()),
    ('{"data":[104,105,null]}', Outer(data=b"hi\x00")),
    ('{"data":[]}', Outer()),
    ('{"header":{"Red_Dot":1,"other":2}}', Outer(header=Inner(1))),
    ('{"header":{}}', Outer()),
    ('{"inners":[{"red_dot":1},null,{}]}', Outer(inners=[Inner(1), Inner(), Inner()])),
    ('{"text":"\\ud83d\\ude00"}', Outer("😀")),
    ('{"text":"a\\ud800b"}', Outer("a\ufffdb")),
    ('{"text":"用户"}', Outer("用户")),
]


@pytest.mark.parametrize(("text", "value"), ACCEPTED)
def test_what_go_accepts_is_accepted(text: str, value: Outer) -> None:
    assert read(text) == value


def test_bytes_that_are_no_utf_8_become_replacement_characters() -> None:
    assert read_body(b'{"text":"a\xffb"}', Outer).text == "a\ufffdb"


REFUSED = [
    ("", "EOF"),
    (" \n", "EOF"),
    ("{", "unexpected EOF"),
    ('{"text":"x', "unexpected EOF"),
    ('{"text":', "unexpected EOF"),
    ('{"small":1', "unexpected EOF"),
    ("[1", "unexpected EOF"),
    ("{text:1}", "invalid character"),
    ('{"text":"x",}', "invalid character"),
    ('{"small":01}', "invalid character"),
    ('{"small":NaN}', "invalid character"),
    ('{"text":"a\nb"}', "invalid character"),
    ("[]", "json: cannot unmarshal array into Go value of type Outer"),
    ('"x"', "json: cannot unmarshal string into Go value of type Outer"),
    ("5", "json: cannot unmarshal number 5 into Go value of type Outer"),
    ("true", "json: cannot unmarshal bool into Go value of type Outer"),
    ('{"small":"1"}', "json: cannot unmarshal string into Go struct field .small of type uint8"),
    ('{"small":256}', "json: cannot unmarshal number 256 into Go struct field .small of type uint8"),
    ('{"small":-1}', "number -1"),
    ('{"small":1.0}', "number 1.0"),
    ('{"small":1e1}', "number 10.0"),
    ('{"small":true}', "cannot unmarshal bool"),
    ('{"small":[]}', "cannot unmarshal array"),
    ('{"middle":4294967296}', "uint32"),
    ('{"large":18446744073709551616}', "uint64"),
    ('{"signed":9223372036854775808}', "int64"),
    ('{"text":1}', "cannot unmarshal number 1 into Go struct field .text of type string"),
    ('{"text":{}}', "cannot unmarshal object"),
    ('{"texts":"a"}', "cannot unmarshal string into Go struct field .texts of type []string"),
    ('{"texts":[1]}', "cannot unmarshal number 1"),
    ('{"numbers":["1"]}', "cannot unmarshal string"),
    ('{"data":"***"}', "illegal base64 data"),
    ('{"data":"aGk"}', "illegal base64 data"),
    ('{"data":"aGk=x"}', "illegal base64 data"),
    ('{"data":"é"}', "illegal base64 data"),
    ('{"data":5}', "cannot unmarshal number 5"),
    ('{"data":{}}', "cannot unmarshal object"),
    ('{"data":[256]}', "cannot unmarshal number 256"),
    ('{"data":[1.0]}', "cannot unmarshal number 1.0"),
    ('{"header":"x"}', "cannot unmarshal string into Go struct field .header of type Inner"),
    ('{"header":{"red_dot":true}}', "cannot unmarshal bool into Go struct field .header.red_dot of type int"),
    ('{"inners":{}}', "cannot unmarshal object"),
    ('{"inners":[1]}', "cannot unmarshal number 1"),
    ("[" * 100_000, "exceeded max depth"),
    ('{"small":' + "1" * 10_000 + "} x", "out of range"),
]


@pytest.mark.parametrize(("text", "why"), REFUSED)
def test_what_go_refuses_is_refused_in_its_words(text: str, why: str) -> None:
    with pytest.raises(BodyError) as error:
        read(text)
    assert why in error.value.text


@pytest.mark.parametrize(("text", "value"), [("null", None), ("[]", []), ('["a",null]', ["a", ""]), ('["a"] x', ["a"])])
def test_an_array_of_uids_may_be_null(text: str, value: list[str] | None) -> None:
    assert read_uids(text.encode()) == value


@pytest.mark.parametrize("text", ["", "{", '{"uids":["a"]}', "[1]", '"a"', "1"])
def test_what_is_no_array_of_uids_is_refused(text: str) -> None:
    with pytest.raises(BodyError):
        read_uids(text.encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from([*Outer.__struct_fields__, "x"]) | st.text(), inner)
    ),
    max_leaves=20,
)


@given(JSON)
def test_any_json_is_either_read_or_refused(value: object) -> None:
    text = json.dumps(value)
    assert parse(text.encode()) == value
    try:
        found = read(text)
    except BodyError:
        return
    assert 0 <= found.small <= 255
    assert all(type(item) is str for item in found.texts)


@given(st.binary())
def test_any_bytes_are_either_read_or_refused(data: bytes) -> None:
    try:
        read_body(data, Outer)
    except BodyError as error:
        assert error.text
