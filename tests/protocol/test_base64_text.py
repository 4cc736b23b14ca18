from base64 import b64encode, encodebytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wukong.protocol.base64_text import decode_base64


@given(st.binary(max_size=200))
def test_base64_is_read_with_line_breaks_or_without(data: bytes) -> None:
    assert decode_base64(b64encode(data)) == data
    assert decode_base64(encodebytes(data)) == data
    assert decode_base64(encodebytes(data).replace(b"\n", b"\r\n")) == data


@pytest.mark.parametrize(
    "text", [b"hello world!", b"eyJhIjoxfQ", b"e30==", b"e3=0", b"=e30", b"e30=e30=", b"e3 0=", b"_-==", b"e3\n0", b"="]
)
def test_anything_else_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        decode_base64(text)
