from wukong.webhook.signature import headers, sign


def test_the_signature_is_that_of_the_documentation() -> None:
    # printf '1700000000.abc.[]' | openssl dgst -sha256 -hmac 'a secret of sixteen'
    assert (
        sign("a secret of sixteen", 1_700_000_000, "abc", b"[]")
        == "v1=d0798b309c695aab1abc016e0a523a1bdac874aaab19a4fac18302a4aa78c777"
    )


def test_without_a_secret_only_the_name_and_the_time_are_told() -> None:
    assert headers("", 5, "abc", b"[]") == {"X-Wukong-Timestamp": "5", "X-Wukong-Id": "abc"}
    assert headers("secret", 5, "abc", b"[]")["X-Wukong-Signature"] == sign("secret", 5, "abc", b"[]")


def test_time_name_and_body_count() -> None:
    assert (
        len({sign("s", 5, "a", b"b"), sign("s", 6, "a", b"b"), sign("s", 5, "b", b"b"), sign("s", 5, "a", b"a")}) == 4
    )
