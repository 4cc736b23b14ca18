"""Taking a backup over HTTP: begin, every slot's rows or entries into its file, the manifest last.

An answer that breaks off is asked for again from where it ended; a backup that the server has given up is begun anew by
whoever runs the command again. docs/backup.md.
"""

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
import msgspec

from wukong.backup.files import ENTRIES, ROWS, SlotWriter, Written
from wukong.backup.manifest import (
    FORMAT,
    UNFINISHED,
    Backup,
    Manifest,
    SlotPart,
    file_name,
    sync_directory,
    write_manifest,
)
from wukong.backup.rows import FrameDecoder, decode_pairs, read_entry
from wukong.channel.commands import FORMAT_VERSION
from wukong.client.admin import AdminClient
from wukong.client.errors import ApiRefused, ApiUnavailable
from wukong.errors import DataError, ProtocolError

BEGIN_TIMEOUT_S: Final = 30.0
# Without a byte for so long the answer is asked for again.
READ_TIMEOUT_S: Final = 20.0
# Pauses before an answer that broke off is asked for again; after the last one the backup fails.
PAUSES_S: Final = (0.1, 0.5, 1.0, 2.0, 4.0)
GONE: Final = 410

Progress = Callable[[int, int], None]
"""(slots that are done, bytes of rows and entries since it was called last)."""


class _Head(msgspec.Struct, frozen=True):
    index: int
    term: int
    from_log: bool = False


class _Begun(msgspec.Struct, frozen=True):
    id: str
    cluster: str
    node: int
    version: str
    began_ms: int
    at_ms: int
    slots: list[_Head]


class Fetch:
    """`async with`: one connection to a node. url, token: of its API."""

    def __init__(self, url: str, token: str, progress: Progress) -> None:
        self._url = url
        self._token = token
        self._progress = progress
        self._admin = AdminClient(url, token or None, timeout_s=BEGIN_TIMEOUT_S)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {"Content-Type": "application/json"} | ({"token": self._token} if self._token else {})
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=BEGIN_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
        self._session = aiohttp.ClientSession(timeout=timeout, headers=headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
        await self._admin.close()

    async def take(self, directory: Path, base: Backup | None) -> Backup:
        """A new folder in the directory. base: what to build on, in the same directory; None: a full backup.

        Raises ApiRefused, ApiUnavailable, DataError, OSError; nothing is left then."""
        body: dict[str, object] = {}
        if base is not None:
            body["base"] = [(part.index, part.term) for part in base.manifest.slots]
            body["cluster"] = base.manifest.cluster
        content = await self._admin.call("POST", "/backup/begin", body=body)
        try:
            begun = msgspec.json.decode(content, type=_Begun)
        except msgspec.MsgspecError as fault:
            raise ApiUnavailable(self._url, "/backup/begin", f"answer cannot be read: {fault}") from fault
        try:
            folder = self._folder(directory, begun)
            try:
                manifest = await self._fill(folder, begun, base)
                await asyncio.to_thread(write_manifest, folder, manifest)
                final = folder.with_name(folder.name.removesuffix(UNFINISHED))
                folder.rename(final)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        finally:
            # Whatever happened: the next one need not wait until the server gives this one up.
            with contextlib.suppress(ApiRefused, ApiUnavailable):
                await self._admin.call("POST", "/backup/end", body={"id": begun.id})
        sync_directory(directory)
        return Backup(final, manifest)

    @staticmethod
    def _folder(directory: Path, begun: _Begun) -> Path:
        """Named after the moment, so that names sort by time."""
        moment = time.strftime("%Y-%m-%dT%H%M%S", time.gmtime(begun.at_ms / 1000))
        name = f"{moment}.{begun.at_ms % 1000:03d}Z"
        if (directory / name).exists():
            raise DataError(f"{directory / name} is there already: the clock of node {begun.node} went back")
        folder = directory / (name + UNFINISHED)
        folder.mkdir(mode=0o700, parents=True)
        return folder

    async def _fill(self, folder: Path, begun: _Begun, base: Backup | None) -> Manifest:
        parts = []
        for slot, head in enumerate(begun.slots):
            part = None
            if base is not None and head.from_log:
                part = await self._entries(folder, begun.id, slot, head, base.manifest.slots[slot])
            parts.append(part or await self._rows(folder, begun.id, slot, head))
            self._progress(slot + 1, 0)
        return Manifest(
            format=FORMAT,
            id=secrets.token_hex(8),
            # One that has every slot in full builds on nothing.
            base=base.manifest.id if base is not None and any(part.kind != "rows" for part in parts) else "",
            cluster=begun.cluster,
            node=begun.node,
            version=begun.version,
            entries=FORMAT_VERSION,
            began_ms=begun.began_ms,
            at_ms=begun.at_ms,
            slot_count=len(parts),
            slots=parts,
        )

    async def _rows(self, folder: Path, backup_id: str, slot: int, head: _Head) -> SlotPart:
        name = file_name(slot, ROWS)
        writer = SlotWriter(folder / name, slot, ROWS)
        try:
            after = b""
            for pause_s in self._attempts():
                try:
                    body = {"id": backup_id, "slot": slot, "after": after}
                    async for data in self._frames("/backup/rows", body):
                        after = await asyncio.to_thread(_add_rows, writer, data)
                        self._progress(slot, len(data))
                    break
                except (ApiUnavailable, ProtocolError):
                    if pause_s is None:
                        raise
                    await asyncio.sleep(pause_s)
            written = await asyncio.to_thread(writer.close)
        finally:
            writer.abandon()
        return _part(slot, head, "rows", name, written)

    async def _entries(self, folder: Path, backup_id: str, slot: int, head: _Head, before: SlotPart) -> SlotPart | None:
        """None: the log does not reach back to the base any more."""
        name = file_name(slot, ENTRIES)
        writer = SlotWriter(folder / name, slot, ENTRIES)
        try:
            after = before.index
            for pause_s in self._attempts():
                try:
                    body = {"id": backup_id, "slot": slot, "after": after}
                    async for data in self._frames("/backup/entries", body):
                        after = await asyncio.to_thread(_add_entries, writer, data)
                        self._progress(slot, len(data))
                    break
                except ApiRefused as refusal:
                    if refusal.http_status != GONE:
                        raise
                    # Either the log was trimmed, or the backup is over: the rows will tell.
                    writer.abandon()
                    (folder / name).unlink()
                    return None
                except (ApiUnavailable, ProtocolError):
                    if pause_s is None:
                        raise
                    await asyncio.sleep(pause_s)
            written = await asyncio.to_thread(writer.close)
        finally:
            writer.abandon()
        return _part(slot, head, "entries", name, written, before)

    @staticmethod
    def _attempts() -> "list[float | None]":
        return [*PAUSES_S, None]

    async def _frames(self, path: str, body: object) -> AsyncIterator[bytes]:
        """The pairs of each frame, to the last one. Raises ApiUnavailable when the answer breaks off."""
        assert self._session is not None
        decoder = FrameDecoder()
        try:
            async with self._session.post(self._url + path, data=msgspec.json.encode(body)) as answer:
                if answer.status != 200:
                    raise await _refusal(self._url, path, answer)
                async for some in answer.content.iter_any():
                    decoder.receive(some)
                    while (data := decoder.next_frame()) is not None:
                        yield data
        except TimeoutError:
            raise ApiUnavailable(self._url, path, f"silent for {READ_TIMEOUT_S:g} s") from None
        except (aiohttp.ClientError, OSError) as fault:
            raise ApiUnavailable(self._url, path, str(fault) or type(fault).__name__) from fault
        if not decoder.done:
            raise ApiUnavailable(self._url, path, "the answer was cut short")


def _add_rows(writer: SlotWriter, data: bytes) -> bytes:
    """The last key."""
    pairs = decode_pairs(data)
    writer.add(data, len(pairs))
    return pairs[-1][0]


def _add_entries(writer: SlotWriter, data: bytes) -> int:
    """The last index."""
    pairs = decode_pairs(data)
    writer.add(data, len(pairs))
    return read_entry(pairs[-1])[0]


def _part(slot: int, head: _Head, kind: str, name: str, written: Written, before: SlotPart | None = None) -> SlotPart:
    return SlotPart(
        slot=slot,
        index=head.index,
        term=head.term,
        kind=kind,
        file=name,
        pairs=written.pairs,
        bytes=written.bytes,
        size_bytes=written.size_bytes,
        digest=written.digest,
        from_index=before.index if before is not None else 0,
        from_term=before.term if before is not None else 0,
    )


async def _refusal(url: str, path: str, answer: aiohttp.ClientResponse) -> ApiRefused | ApiUnavailable:
    text = (await answer.text(errors="replace"))[:1_000]
    try:
        said = str(msgspec.json.decode(text).get("msg", ""))
    except (msgspec.MsgspecError, AttributeError):
        said = text
    if answer.status >= 500:
        return ApiUnavailable(url, path, f"{answer.status} {said}")
    return ApiRefused(path, answer.status, answer.status, said)
