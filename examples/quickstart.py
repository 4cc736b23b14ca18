"""Two people, a group, one message: the shortest useful program. Start a server first: scripts/serve

python examples/quickstart.py [--api http://127.0.0.1:5001] [--tcp 127.0.0.1:5100]
"""

import argparse
import asyncio

from wukong.client import AdminClient, ChannelType, HttpSyncProvider, connect, text_payload


async def main(api: str, tcp: str) -> None:
    async with AdminClient(api) as admin:
        # A back end's work: who is in the group. When this returns, both get whatever is sent from then on.
        await admin.create_channel("quickstart", subscribers=["alice", "bob"])

        # The users' work. With a sync provider nothing is missed, even if the connection is lost in between.
        async with (
            connect(tcp, "alice") as alice,
            connect(tcp, "bob", sync=HttpSyncProvider(admin, "bob")) as bob,
        ):
            sent = await alice.send("quickstart", ChannelType.GROUP, text_payload("noon?"))
            print(f"alice: stored as message {sent.message_seq} of the group")
            message = await anext(bob)
            print(f"bob:   {message.from_uid} writes: {message.text}")

            await bob.send("alice", ChannelType.PERSON, text_payload("yes"))
            message = await anext(alice)
            print(f"alice: {message.from_uid} writes: {message.text}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--api", default="http://127.0.0.1:5001")
    parser.add_argument("--tcp", default="127.0.0.1:5100")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.api, arguments.tcp))
