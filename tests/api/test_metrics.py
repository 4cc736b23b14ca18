"""GET /metrics in Prometheus' text form."""

from collections import Counter

from tests.api.calls import Api
from tests.service.stack import Stack
from wukong.api.metrics import COUNTER, GAUGE, HISTOGRAM, Figure
from wukong.api.server import ApiOptions
from wukong.histogram import Histogram

LAG = Figure("wukong_loop_lag_seconds", "How late the loop is.", GAUGE, lambda: 0.25)


async def metrics(api: Api) -> dict[str, float]:
    answer = await api.call("GET", "/metrics")
    assert answer.status == 200
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    lines = [line for line in answer.body.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_figures_are_read_when_they_are_asked_for() -> None:
    commands = Counter[tuple[str, ...]]()
    figures = (LAG, Figure("wukong_commands", "Applied.", COUNTER, lambda: commands, ("slot",)))
    async with Api(await Stack().start(), ApiOptions(figures=figures)) as api:
        commands["3",] += 7
        found = await metrics(api)
        assert found["wukong_loop_lag_seconds"] == 0.25
        assert found['wukong_commands_total{slot="3"}'] == 7
        commands["3",] += 1
        assert (await metrics(api))['wukong_commands_total{slot="3"}'] == 8


async def test_a_histogram_shows_how_many_values_each_bound_holds() -> None:
    histogram = Histogram((1, 2.5))
    for value in (0.5, 2, 2.5, 99):
        histogram.add(value)
    figures = (Figure("wukong_things", "Sizes.", HISTOGRAM, lambda: histogram),)
    async with Api(await Stack().start(), ApiOptions(figures=figures)) as api:
        found = {name: value for name, value in (await metrics(api)).items() if name.startswith("wukong_things")}
    assert found == {
        'wukong_things_bucket{le="1.0"}': 1,
        'wukong_things_bucket{le="2.5"}': 3,
        'wukong_things_bucket{le="+Inf"}': 4,
        "wukong_things_count": 4,
        "wukong_things_sum": 104,
    }


async def test_the_process_shows_itself(api: Api) -> None:
    found = await metrics(api)
    assert found["process_resident_memory_bytes"] > 10**6
    assert found["process_open_fds"] > 0


async def test_requests_are_counted_by_route_and_status(api: Api) -> None:
    await api.get("/health")
    await api.call("POST", "/channel", {})
    for path in ("/made", "/up", "/by/clients"):
        await api.call("GET", path)
    found = await metrics(api)
    assert found['wukong_http_requests_total{route="/health",status="200"}'] == 1
    assert found['wukong_http_requests_total{route="/channel",status="400"}'] == 1
    assert found['wukong_http_requests_total{route="other",status="404"}'] == 3
    assert found["wukong_http_requests_open"] == 1


async def test_two_servers_in_one_process_do_not_share_figures() -> None:
    async with Api(await Stack().start(), ApiOptions(figures=(LAG,))) as one, Api(await Stack().start()) as other:
        assert "wukong_loop_lag_seconds" in await metrics(one)
        assert "wukong_loop_lag_seconds" not in await metrics(other)
