"""The document of the API, and the page that shows it. http-api.md 5.3."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any, cast

from aiohttp.test_utils import make_mocked_request
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from tests.api.calls import Answer, Api
from tests.service.stack import Stack
from wukong.api.openapi import OPERATIONS, document, find, key, served
from wukong.api.server import ApiOptions, build_app
from wukong.service.cluster import ClusterAdmin

PAYLOAD = "eyJ0eXBlIjoxfQ=="
Document = dict[str, Any]


async def the_document(api: Api) -> Document:
    found: Document = await api.get("/docs/openapi.json")
    return found


async def test_the_document_is_openapi_3_1(api: Api) -> None:
    found = await the_document(api)
    validate(found)
    assert found["openapi"].startswith("3.1")


def test_the_document_of_every_route_in_the_table_is_valid() -> None:
    validate(document([(operation.method, operation.path) for operation in OPERATIONS]))


async def test_every_route_served_is_in_the_document_and_no_other() -> None:
    # With a cluster, so that all routes are there; nobody asks it anything.
    cluster = cast("ClusterAdmin", object())
    app = build_app((await Stack().start()).use_cases, ApiOptions(), cluster=cluster)
    routes = served(app)
    missing = sorted({route for route in routes if find(*route) is None})
    assert missing == [], "give them a line in OPERATIONS of wukong/api/openapi.py"
    described = {(method.upper(), path) for path, methods in document(routes)["paths"].items() for method in methods}
    assert described == set(routes)


async def test_every_route_of_the_table_is_served() -> None:
    app = build_app((await Stack().start()).use_cases, ApiOptions(), cluster=cast("ClusterAdmin", object()))
    found = {key(*route) for route in served(app)}
    assert [each[:2] for each in OPERATIONS if key(each.method, each.path) not in found] == []


def test_no_route_is_in_the_table_twice() -> None:
    keys = [key(operation.method, operation.path) for operation in OPERATIONS]
    assert len(keys) == len(set(keys))


async def test_a_path_names_its_parameters(api: Api) -> None:
    for path, methods in (await the_document(api))["paths"].items():
        for operation in methods.values():
            named = [each["name"] for each in operation.get("parameters", []) if each["in"] == "path"]
            assert named == re.findall(r"\{([^}]*)\}", path)


async def test_fields_and_their_ranges_are_those_that_are_read(api: Api) -> None:
    schemas = (await the_document(api))["components"]["schemas"]
    body = schemas["SendBody"]["properties"]
    assert body["channel_type"] == {"type": "integer", "default": 0, "minimum": 0, "maximum": 255}
    assert body["payload"]["contentEncoding"] == "base64"
    assert body["header"]["$ref"] == "#/components/schemas/HeaderBody"
    types = schemas["ConversationSyncBody"]["properties"]["exclude_channel_types"]
    assert (types["type"], types["items"]["maximum"]) == ("array", 255)


async def test_a_field_that_an_answer_may_lack_is_not_required(api: Api) -> None:
    schemas = (await the_document(api))["components"]["schemas"]
    assert "topic" in schemas["MessageShape"]["properties"]
    assert "topic" not in schemas["MessageShape"]["required"]
    assert "payload" in schemas["MessageShape"]["required"]


# -- real answers --


def strict(value: Any) -> Any:
    """Schemas that allow no field they do not name: else a forgotten one would never be noticed."""
    if isinstance(value, list):
        return [strict(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {name: strict(item) for name, item in value.items()}
    if found.get("type") == "object" and "properties" in found:
        found.setdefault("additionalProperties", False)
    return found


def complaints(spec: Document, method: str, path: str, answer: Answer) -> list[str]:
    """What the document has against an answer."""
    responses = spec["paths"][path][method.lower()]["responses"]
    response = responses.get(str(answer.status))
    if response is None:
        return [f"HTTP {answer.status} is not in the document"]
    content = response.get("content", {})
    media_type = answer.content_type.partition(";")[0]
    if not content:
        return [] if not answer.body else [f"a body of {media_type} is not in the document"]
    if media_type not in content:
        return [f"{media_type} is not in the document"]
    if media_type != "application/json":
        return []
    schema = {**strict(copy.deepcopy(content[media_type]["schema"])), "components": strict(spec["components"])}
    return [error.message for error in Draft202012Validator(schema).iter_errors(answer.body)]


def calls() -> Iterator[tuple[str, str, Any]]:
    """Requests in an order in which each finds something; several ways through the routes that have them."""
    group = {"channel_id": "g", "channel_type": 2}
    person = {"channel_id": "b", "channel_type": 1}
    yield "POST", "/channel", {**group, "subscribers": ["a", "b"]}
    yield "POST", "/channel", {**group, "channel_id": ""}
    yield "POST", "/channel/subscriber_add", {**group, "subscribers": ["c"]}
    yield "POST", "/channel/info", {**group, "large": 1}
    for number in ("n1", "n2"):
        send = {**group, "from_uid": "a", "payload": PAYLOAD, "client_msg_no": number}
        yield "POST", "/message/send", send
    yield "POST", "/message/send", {**person, "from_uid": "a", "payload": PAYLOAD, "client_msg_no": "p1"}
    command = {"header": {"sync_once": 1}, "from_uid": "a", "payload": PAYLOAD}
    yield "POST", "/message/send", {**command, **group}
    yield "POST", "/message/send", {**command, "subscribers": ["b"]}
    yield "POST", "/message/sendbatch", {"from_uid": "a", "subscribers": ["b", "x@y"], "payload": PAYLOAD}
    yield "POST", "/message/sync", {"uid": "b"}
    yield "POST", "/message/syncack", {"uid": "b", "last_message_seq": 1}
    yield "POST", "/messages", {**group, "message_seqs": [1, 2]}
    yield "POST", "/message", {**group, "client_msg_no": "n1"}
    yield "POST", "/message", {**group, "client_msg_no": "none"}
    yield "GET", "/message/byclientmsgno?channel_id=g&channel_type=2&client_msg_no=n1", None
    yield "GET", "/message/byclientmsgno?channel_id=g&channel_type=2&client_msg_no=none", None
    yield "POST", "/channel/messagesync", {**group, "login_uid": "a", "limit": 10}
    yield "GET", "/channel/max_message_seq?channel_id=g&channel_type=2", None
    yield "GET", "/channel/last_message?channel_id=g&channel_type=2", None
    yield "GET", "/channel/last_message?channel_id=none&channel_type=2", None
    stream = {**group, "client_msg_no": "s1"}
    yield "POST", "/message/send", {**stream, "from_uid": "a", "payload": PAYLOAD, "is_stream": 1}
    for name, payload in (("delta", {"kind": "text", "delta": "hi"}), ("close", {"end_reason": 1}), ("finish", None)):
        event = {"event_id": name, "event_type": f"stream.{name}", "payload": payload}
        yield "POST", "/message/event", {**stream, **event}
        yield "POST", "/channel/messagesync", {**group, "login_uid": "a", "limit": 10}
    yield "POST", "/message/eventsync", stream
    yield "GET", "/channel/subscribers?channel_id=g&channel_type=2", None
    yield "POST", "/conversation/sync", {"uid": "b", "msg_count": 5}
    yield "POST", "/conversation/syncByChannels", {"uid": "b", "channels": [group, person]}
    yield "POST", "/conversation/syncMessages", {"uid": "a", "channels": [group, {**group, "channel_id": "none"}]}
    yield "POST", "/conversation/channels", {"uid": "b"}
    for name in ("clearUnread", "setUnread", "delete"):
        yield "POST", f"/conversations/{name}", {**group, "uid": "b"}
    for kind in ("blacklist", "whitelist"):
        for name in ("add", "set", "remove", "add", "remove_all", "add"):
            yield "POST", f"/channel/{kind}_{name}", {**group, "uids": ["c"]}
    yield "GET", "/channel/whitelist?channel_id=g&channel_type=2", None
    yield "POST", "/channel/subscriber_remove", {**group, "subscribers": ["c"]}
    yield "POST", "/channel/subscriber_remove_all", group
    yield "POST", "/channel/delete", group
    yield "POST", "/tmpchannel/subscriber_set", {"channel_id": "t", "uids": ["a"]}
    yield "GET", "/user/systemuids", None
    for name in ("add", "add_to_cache"):
        yield "POST", f"/user/systemuids_{name}", {"uids": ["s"]}
    yield "GET", "/user/systemuids", None
    for name in ("remove", "remove_from_cache"):
        yield "POST", f"/user/systemuids_{name}", {"uids": ["s"]}
    yield "POST", "/user/token", {"uid": "a", "token": "t"}
    yield "POST", "/channel/info", {"channel_id": "bad", "channel_type": 1, "ban": 1}
    yield "POST", "/user/token", {"uid": "bad", "token": "t"}
    yield "POST", "/user/device_quit", {"uid": "z", "device_flag": -1}
    yield "POST", "/user/onlinestatus", ["a"]
    yield "POST", "/user/onlinestatus", []
    yield "POST", "/user/update_plugin_no", {"uid": "a"}
    yield "POST", "/route/batch", ["a"]
    yield "POST", "/conn/kick", {"uid": "z", "conn_id": 9}
    yield "POST", "/conn/remove", {"uid": "a"}
    for path in ("/health", "/migrate/result", "/route", "/connz", "/varz", "/varz?show=conn", "/varz/setting"):
        yield "GET", path, None
    yield "GET", "/message/explain?channel_id=g&message_seq=1", None
    yield "GET", "/message/explain?channel_id=g&message_seq=1&uid=nobody", None
    yield "GET", "/message/explain?channel_id=g&message_seq=1000", None
    for path in ("/docs", "/docs/rapidoc-min.js", "/docs/health", "/docs/openapi.json", "/metrics"):
        yield "GET", path, None
    yield "POST", "/retention/set", {**group, "count": 1}
    yield "POST", "/retention/default/set", {"channel_type": 2, "days": 1}
    yield "GET", "/retention", None
    yield "GET", "/retention?channel_id=g&channel_type=2", None
    yield "GET", "/retention?channel_id=none&channel_type=9", None
    yield "POST", "/retention/clear", group
    yield "POST", "/retention/default/clear", {"channel_type": 2}
    yield "POST", "/retention/run", {}
    yield "POST", "/erase", {"uid": "nobody"}
    yield "GET", "/plugins", None
    yield "GET", "/plugin/bind", None
    yield "GET", "/plugins/x/y", None
    for path in ("/plugin/bind", "/plugin/unbind", "/plugin/uninstall", "/pluginconfig/x"):
        yield "POST", path, {}


# Judged by nobody yet: they are asked by the tests of their own module.
LOOSE = re.compile(r"/(cluster|tags?|manager|import)\b")


async def test_answers_are_as_the_document_says(api: Api) -> None:
    await api.stack.connect("a", 1)
    spec = await the_document(api)
    app = build_app(api.stack.use_cases, ApiOptions())
    found: list[str] = []
    asked: set[tuple[str, str]] = set()
    for method, path, body in calls():
        answer = await api.call(method, path, body, headers={"Content-Type": "application/json"})
        assert answer.status < 500, (path, answer)
        template = await template_of(app, method, path)
        asked.add((method, template))
        found += [f"{method} {path} {json.dumps(body)}: {text}" for text in complaints(spec, method, template, answer)]
    assert found == []
    known = {(method, path) for method, path in served(app) if not LOOSE.match(path)}
    ours = {each for each in known if "{path}" not in each[1]} | {("GET", "/plugins/{plugin}/{path}")}
    assert ours - asked == {("GET", "/docs/")}, "ask for them in calls()"


async def template_of(app: Any, method: str, path: str) -> str:
    """The route that answers a path, as the document names it."""
    info = await app.router.resolve(make_mocked_request(method, path))
    template: str = info.route.resource.canonical
    return template


async def test_an_answer_with_a_field_too_many_would_be_noticed(api: Api) -> None:
    spec = await the_document(api)
    answer = await api.call("GET", "/route")
    assert complaints(spec, "GET", "/route", answer) == []
    assert complaints(spec, "GET", "/route", answer._replace(body={**answer.body, "more": 1}))
    assert complaints(spec, "GET", "/route", answer._replace(body={"tcp_addr": ""}))
    assert complaints(spec, "GET", "/route", answer._replace(status=418))


# -- the page --


async def test_the_page_loads_nothing_from_elsewhere(api: Api) -> None:
    page = await api.call("GET", "/docs")
    assert page.content_type == "text/html; charset=utf-8"
    assert re.findall(r"(?:src|href|url)=\"([^\"]*)\"", page.body) == ["/docs/rapidoc-min.js", "/docs/openapi.json"]
    assert "//" not in page.body.replace("<!doctype html>", "")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|\*|unsafe-eval", policy)


async def test_the_script_of_the_page_is_served_with_its_type(api: Api) -> None:
    script = await api.call("GET", "/docs/rapidoc-min.js")
    assert (script.status, script.content_type) == (200, "text/javascript; charset=utf-8")
    assert script.body.startswith("/*! RapiDoc 9.3.8 ")
    assert len(script.body) < 1_500_000


async def test_a_slash_behind_docs_leads_to_the_page(api: Api) -> None:
    assert (await api.call("GET", "/docs/")).body == (await api.call("GET", "/docs")).body


async def test_in_release_mode_the_documentation_is_closed() -> None:
    async with Api(await Stack().start(), ApiOptions(docs_on=False)) as api:
        for path in ("/docs", "/docs/", "/docs/openapi.json", "/docs/rapidoc-min.js"):
            answer = await api.call("GET", path)
            assert (answer.status, answer.body["mode"]) == (403, "release")
            assert answer.body.keys() == {"error", "message", "mode", "suggestion"}
        assert await api.get("/docs/health") == {"status": "disabled", "mode": "release"}


async def test_open_documentation_says_so(api: Api) -> None:
    assert (await api.get("/docs/health"))["status"] == "healthy"
