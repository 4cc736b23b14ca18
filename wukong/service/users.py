"""Device tokens, forced logouts, who is online, system accounts. http-api.md section 6, behaviour.md 4.3 and 14."""

from typing import NamedTuple

from wukong.channel.commands import OP_ADD, OP_REMOVE, OP_SET, QuitDevices, SetToken, UpdateSystemUids
from wukong.channel.copies import datasource_uids, system_uids
from wukong.channel.presence import sessions_of
from wukong.errors import RequestRefused
from wukong.limits import KIB, MIB
from wukong.service.replica import COMMAND_IDS_BYTES, Pace, Replica, check_id, distinct
from wukong.service.sessions import hash_token

ALL_DEVICES = -1
ALL_DEVICE_FLAGS = (0, 1, 2)
MAX_DEVICE_FLAG = 255

# The list is copied into every slot as a whole.
SYSTEM_UIDS_BYTES = MIB

_SYSTEM_SLOT = 0
_SLICE = 500


class Online(NamedTuple):
    uid: str
    device_flag: int


class Users:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def set_token(self, uid: str, token: str, *, device_flag: int, level: int) -> int:
        """Store a device's token; level 1 logs its other sessions out. Returns a reason code: 1, or 19 for a banned and
        24 for a disbanded user, whose token stays as it was."""
        command = SetToken(check_id(uid), device_flag, hash_token(token), level)
        return (await self._replica.change(uid, command)).reason

    async def quit_devices(self, uid: str, device_flag: int) -> None:
        """Forget the token of a device (ALL_DEVICES: app, web and PC) and log its sessions out. Nothing happens for
        one that has no token."""
        flags = list(ALL_DEVICE_FLAGS) if device_flag == ALL_DEVICES else [device_flag]
        if all(0 <= flag <= MAX_DEVICE_FLAG for flag in flags):
            await self._replica.change(check_id(uid), QuitDevices(uid, flags))

    async def online(self, uids: list[str]) -> list[Online]:
        """One entry per live session anywhere, in the order asked; a uid listed twice is answered twice."""
        found: list[Online] = []
        pace = Pace()
        for start in range(0, len(uids), _SLICE):
            part = [check_id(uid) for uid in uids[start : start + _SLICE]]
            await self._replica.catch_up(part)
            for uid in part:
                sessions = sessions_of(self._replica.now(uid), uid)
                found += [Online(uid, session.device_flag) for session in sessions]
                await pace.step()
        return found

    async def system_uids(self) -> list[str]:
        """Added system accounts in the order of adding; the built-in one is never among them."""
        await self._replica.catch_up_slot(_SYSTEM_SLOT)
        return self._listed()

    def _listed(self) -> list[str]:
        built_in = self._replica.settings.system_uid
        return [uid for uid in system_uids(self._replica.slot_now(_SYSTEM_SLOT)) if uid != built_in]

    async def add_system_uids(self, uids: list[str]) -> None:
        """In force everywhere when this returns. Raises RequestRefused for more than the limits allow."""
        wanted = await distinct(uids)
        added = _bytes(wanted)
        if added > COMMAND_IDS_BYTES:
            raise RequestRefused(f"too many uids at once; the limit is {COMMAND_IDS_BYTES // KIB} KiB")
        if added + _bytes(await self.system_uids()) > SYSTEM_UIDS_BYTES:
            raise RequestRefused(f"too many system accounts; the limit is {SYSTEM_UIDS_BYTES // KIB} KiB of uids")
        if wanted:
            await self._replica.change_slot(_SYSTEM_SLOT, UpdateSystemUids(OP_ADD, wanted))

    async def remove_system_uids(self, uids: list[str]) -> None:
        gone = set(await distinct(uids))
        if not gone:
            return
        # Also for nobody: an earlier request may have removed them, and its copies may be under way.
        present = [uid for uid in await self.system_uids() if uid in gone]
        await self._replica.change_slot(_SYSTEM_SLOT, UpdateSystemUids(OP_REMOVE, present))

    async def name_system_uids(self, uids: list[str]) -> bool:
        """Make these system accounts in the place of those that the datasource named before; those added over the API
        stay. Returns whether anything had to be changed. Raises RequestRefused for more than the limits allow."""
        wanted = await distinct(uids)
        if _bytes(wanted) > COMMAND_IDS_BYTES:
            raise RequestRefused(f"too many system accounts; the limit is {COMMAND_IDS_BYTES // KIB} KiB of uids")
        await self._replica.catch_up_slot(_SYSTEM_SLOT)
        if set(wanted) == set(datasource_uids(self._replica.slot_now(_SYSTEM_SLOT))):
            return False
        await self._replica.change_slot(_SYSTEM_SLOT, UpdateSystemUids(OP_SET, wanted, True))
        return True


def _bytes(uids: list[str]) -> int:
    return sum(len(uid.encode()) + 3 for uid in uids)
