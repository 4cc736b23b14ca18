"""Rows of the trap list about what operators look at. http-api.md section 21, no 44, 47 and 48."""

import pytest

from tests.api.calls import Api


async def test_no_device_list_tells_a_token(api: Api) -> None:
    await api.post("/user/token", {"uid": "a", "token": "very-secret", "device_flag": 1})
    answer = await api.call("GET", "/cluster/devices?uid=a")
    assert answer.status == 200
    [device] = answer.body["data"]
    assert (device["uid"], "very-secret" in str(answer.body)) == ("a", False)


@pytest.mark.parametrize(
    "query",
    ["ban=1", "disband=0", "subscriber_count_gte=1", "denylist_count_lte=3", "allowlist_count_gte=x", "limit=-1"],
)
async def test_filters_of_channels_do_not_crash(api: Api, query: str) -> None:
    await api.post("/channel", {"channel_id": "g", "channel_type": 2, "subscribers": ["a"]})
    assert (await api.call("GET", f"/cluster/channels?{query}")).status in (200, 400)


@pytest.mark.parametrize("path", ["/debug/pprof/", "/debug/pprof/profile", "/debug/pprof/heap"])
async def test_there_is_no_profiler(api: Api, path: str) -> None:
    assert (await api.call("GET", path)).status == 404
