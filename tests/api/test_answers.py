"""The shapes of answers: http-api.md 2.5 and 2.6."""

import json

from aiohttp import web

from wukong.api import answers


def shown(response: web.Response) -> tuple[int, object]:
    assert isinstance(response.body, bytes)
    return response.status, json.loads(response.body)


def test_the_envelopes() -> None:
    assert shown(answers.ok()) == (200, {"status": 200})
    assert shown(answers.ok_with({"x": 1})) == (200, {"data": {"x": 1}, "status": 200})
    assert shown(answers.bare([])) == (200, [])
    assert shown(answers.bare(None)) == (200, None)
    assert shown(answers.status(19)) == (200, {"status": 19})
    assert shown(answers.refused("no")) == (400, {"msg": "no", "status": 400})
    assert shown(answers.refused("no", code=403)) == (400, {"msg": "no", "status": 403})
    assert shown(answers.refused("later", http_status=503)) == (503, {"msg": "later", "status": 503})


def test_integers_beyond_53_bits_stay_integers() -> None:
    assert answers.bare({"id": 2**63 - 1}).body == b'{"id":9223372036854775807}'


async def test_items_encoded_one_by_one_make_the_same_list() -> None:
    items = [{"a": 1}, {"b": "用户"}]
    assert shown(answers.bare(await answers.raw_list(items))) == (200, items)
