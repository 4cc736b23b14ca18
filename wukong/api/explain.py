"""GET /message/explain: why a user got a message, or did not. A route of this server alone. docs/explain.md.

    channel_id, channel_type   of the channel; type 2 if it is left out. A chat of two: the peer's uid and login_uid, or
                               both uids with @ between them
    message_seq | message_id   the message; only the id finds one that is not stored
    cmd=1                      the channel's commands are meant
    uid                        only this user; else a page of users, in the order of their uids
    start, limit               where the page begins, and how many; at most 100

The answer is an `Explanation` (service/explain.py), whose fields are told there. 400: the message is not there, or
something is missing. 403: asked from elsewhere without a manager token.
"""

from aiohttp import web

from wukong.api import answers
from wukong.api.request import GET, query_int, query_text, query_type, refuse_if, require, route
from wukong.channel.ids import GROUP
from wukong.service.explain import QUESTION, Explain, Query
from wukong.service.other_nodes import Nodes

PATH = "/message/explain"

_CHANNEL_MISSING = "channel_id is missing"
_TYPE_WRONG = "channel_type is no number from 1 to 255"
_MESSAGE_MISSING = "message_seq or message_id is missing, or no number above 0"


class ExplainRoutes:
    def __init__(self, explain: Explain, nodes: Nodes) -> None:
        self._explain = explain
        self._nodes = nodes
        nodes.serve(QUESTION, explain.serve)

    def routes(self) -> list[web.RouteDef]:
        return [route(GET, PATH, self.explain)]

    async def explain(self, request: web.Request) -> web.Response:
        channel_id = query_text(request, "channel_id")
        require(channel_id, _CHANNEL_MISSING)
        channel_type = query_type(request) if "channel_type" in request.query else GROUP
        refuse_if(channel_type == 0, _TYPE_WRONG)
        seq, message_id = query_int(request, "message_seq"), query_int(request, "message_id")
        refuse_if(min(seq, message_id) < 0 or (seq == 0 and message_id == 0), _MESSAGE_MISSING)
        twin = self._explain.named(
            channel_id, channel_type, query_text(request, "login_uid"), is_cmd=query_int(request, "cmd") == 1
        )
        query = Query(
            twin=twin,
            message_seq=seq,
            message_id=message_id,
            uid=query_text(request, "uid"),
            start=query_text(request, "start"),
            limit=query_int(request, "limit"),
        )
        return answers.bare(await self._explain.explain(query, self._nodes))
