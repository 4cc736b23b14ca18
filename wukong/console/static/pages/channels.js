import { html, useState } from "../../vendor/htm-preact.js";
import { get, post } from "../api.js";
import { NOTHING, number, payload, time, typeName, TYPES } from "../format.js";
import { t } from "../i18n.js";
import { ask, Badge, Card, Facts, Field, Form, Loaded, Table, useData } from "../ui.js";

const GROUP = 2;
const PERSON = 1;
const PAGE = 50;

const place = (id, type) => `#/channels?${new URLSearchParams({ id, type })}`;

export const ChannelLink = ({ id, type }) => html`<a href=${place(id, type)}>${id}</a>`;
export const UserLink = ({ uid }) => (uid ? html`<a href=${`#/users?${new URLSearchParams({ uid })}`}>${uid}</a>` : NOTHING);

const words = (text) => text.split(/[\s,，]+/).filter(Boolean);

const TypeField = ({ any, value }) => html`<${Field} label=${t("Type")} name="type">
  ${(id) => html`<select id=${id} name="type">
    ${any && html`<option value="">${t("Any")}</option>`}
    ${TYPES.map(([number, name]) => html`<option value=${number} selected=${String(number) === String(value)}>${t(name)}</option>`)}
  </select>`}
<//>`;

function askCreate() {
  ask({
    title: t("Create a channel"),
    fields: html`
      <${Field} label=${t("Channel id")} name="id" required />
      <${TypeField} value=${GROUP} />
      <${Field} label=${t("Subscribers")} name="uids" hint=${t("Uids with blanks or commas between them; may be empty.")} />`,
    confirm: t("Create"),
    action: async ({ id, type, uids }) => {
      await post("/channel", { channel_id: id, channel_type: Number(type), subscribers: words(uids) });
      location.hash = place(id, type);
    },
  });
}

export function Channels({ query, isAdmin }) {
  const create = isAdmin && html`<button onClick=${askCreate}>${t("Create a channel")}</button>`;
  const search = ({ id, type }) => {
    const exact = id && type;
    location.hash = exact ? place(id, type) : `#/channels?${new URLSearchParams(id ? { find: id } : {})}`;
  };
  return html`
    <${Card} title=${t("Look up")} extra=${create}>
      <${Form} class="row" onSubmit=${search} role="search">
        <${Field} label=${t("Channel id")} name="id" value=${query.id ?? query.find ?? ""} hint=${t("Exact, as it is stored; a person's is uid@uid.")} />
        <${TypeField} any value=${query.type ?? ""} />
        <button type="submit" class="primary">${t("Find")}</button>
      <//>
    <//>
    ${query.id
      ? html`<${Channel} key=${`${query.type}/${query.id}`} id=${query.id} type=${Number(query.type)} isAdmin=${isAdmin} />`
      : html`<${List} key=${query.find ?? ""} find=${query.find ?? ""} />`}`;
}

function List({ find }) {
  const data = useData(() => get("/cluster/channels", { channel_id: find, limit: PAGE }), [find]);
  return html`<${Card} title=${find ? t("Channels with this id") : t("Newest channels")} flush>
    <${Loaded} data=${data}>
      ${({ data: rows }) => html`<${Table}
        label=${t("Channels")}
        rows=${rows}
        empty=${find ? t("No channel has this id.") : t("No channel yet.")}
        columns=${[
          { label: t("Channel id"), cell: (row) => html`<${ChannelLink} id=${row.channel_id} type=${row.channel_type} />` },
          { label: t("Type"), cell: (row) => typeName(row.channel_type) },
          { label: t("Subscribers"), kind: "num", cell: (row) => number(row.subscriber_count) },
          { label: t("Newest seq"), kind: "num", cell: (row) => number(row.last_msg_seq) },
          { label: t("Newest message"), cell: (row) => time(row.last_msg_time / 1e6) },
          { label: t("Slot"), kind: "num", cell: (row) => row.slot },
        ]}
      />`}
    <//>
  <//>`;
}

function Channel({ id, type, isAdmin }) {
  const data = useData(
    async () => (await get("/cluster/channels", { channel_id: id, channel_type: type, limit: 1 })).data[0] ?? false,
    [id, type],
  );
  const [version, setVersion] = useState(0);
  const changed = () => {
    data.reload();
    setVersion((count) => count + 1);
  };
  return html`<${Loaded} data=${data}>
    ${(channel) =>
      channel
        ? html`
          <${Card} title=${id}>
            <${Facts} pairs=${[
              [t("Type"), typeName(type)],
              [t("State"), channel.disband ? html`<${Badge} tone="bad">${t("disbanded")}<//>` : channel.ban ? html`<${Badge} tone="warn">${t("banned")}<//>` : html`<${Badge} tone="good">${t("normal")}<//>`],
              [t("Subscribers"), number(channel.subscriber_count)],
              [t("Denied"), number(channel.denylist_count)],
              [t("Allowed"), number(channel.allowlist_count)],
              [t("Newest seq"), number(channel.last_msg_seq)],
              [t("Newest message"), time(channel.last_msg_time / 1e6)],
              [t("Created"), channel.created_at_format || NOTHING],
              [t("Slot"), channel.slot],
            ]} />
          <//>
          <${Members} id=${id} type=${type} isAdmin=${isAdmin && type !== PERSON} version=${version} changed=${changed} />
          <${Messages} id=${id} type=${type} version=${version} />`
        : html`<${Card}><p class="empty">${t("There is no channel {id} of the type {type}.", { id, type: typeName(type) })}</p><//>`}
  <//>`;
}

function Members({ id, type, isAdmin, version, changed }) {
  const [cursors, setCursors] = useState([""]);
  const cursor = cursors[cursors.length - 1];
  const data = useData(
    () => get("/web/members", { channel_id: id, channel_type: type, cursor, limit: PAGE }),
    [id, type, cursor, version],
  );
  const body = (uids) => ({ channel_id: id, channel_type: type, subscribers: uids });
  const add = () =>
    ask({
      title: t("Add subscribers to {id}", { id }),
      text: t("They get every message that is received after this is answered."),
      fields: html`<${Field} label=${t("Uids")} name="uids" required hint=${t("With blanks or commas between them.")} />`,
      confirm: t("Add"),
      action: async ({ uids }) => {
        await post("/channel/subscriber_add", body(words(uids)));
        changed();
      },
    });
  const remove = (uid) =>
    ask({
      title: t("Remove {uid} from {id}?", { uid, id }),
      text: t("Messages that come later are not for this user any more."),
      confirm: t("Remove"),
      danger: true,
      action: async () => {
        await post("/channel/subscriber_remove", body([uid]));
        changed();
      },
    });
  return html`<${Card} title=${t("Subscribers")} flush extra=${isAdmin && html`<button onClick=${add}>${t("Add subscribers")}</button>`}>
    <${Loaded} data=${data}>
      ${({ members, next }) => html`
        <${Table}
          label=${t("Subscribers")}
          rows=${members}
          empty=${type === PERSON ? t("Both persons are members by the channel's id.") : t("No subscriber.")}
          columns=${[
            { label: "uid", cell: (row) => html`<${UserLink} uid=${row.uid} />` },
            { label: t("Gets messages from seq"), kind: "num", cell: (row) => number(row.since_seq) },
            { label: t("Added at log index"), kind: "num", cell: (row) => number(row.since_index) },
            ...(isAdmin ? [{ label: html`<span class="hidden">${t("Actions")}</span>`, kind: "actions", cell: (row) => html`<button class="small danger" aria-label=${t("Remove {uid}", { uid: row.uid })} onClick=${() => remove(row.uid)}>${t("Remove")}</button>` }] : []),
          ]}
        />
        ${(next || cursors.length > 1) && html`<div class="pager">
          <button disabled=${cursors.length < 2} onClick=${() => setCursors(cursors.slice(0, -1))}>${t("Back")}</button>
          <button disabled=${!next} onClick=${() => setCursors([...cursors, next])}>${t("More")}</button>
        </div>`}`}
    <//>
  <//>`;
}

function Messages({ id, type, version }) {
  const [before, setBefore] = useState([0]);
  const from = before[before.length - 1];
  const data = useData(
    () => get("/cluster/messages", { channel_id: id, channel_type: type, offset_message_seq: from || "", limit: 20 }),
    [id, type, from, version],
  );
  return html`<${Card} title=${t("Messages, newest first")} flush>
    <${Loaded} data=${data}>
      ${({ data: rows }) => html`
        <${Table}
          stack
          label=${t("Messages")}
          rows=${rows}
          empty=${t("No message.")}
          columns=${[
            { label: "seq", kind: "num", cell: (row) => number(row.message_seq) },
            { label: t("From"), cell: (row) => html`<${UserLink} uid=${row.from_uid} />` },
            { label: t("Time"), cell: (row) => time(row.timestamp * 1000) },
            { label: t("Content"), kind: "wide", cell: (row) => html`<span class="clip" title=${payload(row.payload)}>${payload(row.payload)}</span>` },
            { label: html`<span class="hidden">${t("Actions")}</span>`, kind: "actions", cell: (row) => html`<a class="button small" href=${`#/explain?${new URLSearchParams({ id, type, seq: row.message_seq })}`}>${t("Explain")}</a>` },
          ]}
        />
        ${(rows.length === 20 || before.length > 1) && html`<div class="pager">
          <button disabled=${before.length < 2} onClick=${() => setBefore(before.slice(0, -1))}>${t("Newer")}</button>
          <button disabled=${rows.length < 20} onClick=${() => setBefore([...before, rows[rows.length - 1].message_seq])}>${t("Older")}</button>
        </div>`}`}
    <//>
  <//>`;
}
