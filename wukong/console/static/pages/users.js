import { html } from "../../vendor/htm-preact.js";
import { get, post } from "../api.js";
import { number, typeName } from "../format.js";
import { t } from "../i18n.js";
import { live } from "../live.js";
import { ask, Badge, Card, Field, Form, Loaded, Notice, Table, useData } from "../ui.js";
import { ChannelLink, UserLink } from "./channels.js";

const PAGE = 50;

export function askKick(connection, changed) {
  ask({
    title: t("Disconnect {uid}?", { uid: connection.uid }),
    text: t("The client is told to go and its socket is closed. It may log in again."),
    confirm: t("Disconnect"),
    danger: true,
    action: async () => {
      await post("/conn/kick", { uid: connection.uid, conn_id: connection.id, node_id: connection.node_id });
      changed();
    },
  });
}

/** Sessions of a user on all nodes that answer. */
async function sessionsOf(uid) {
  const { status, node } = live.overview ?? {};
  const nodes = (status?.nodes ?? []).filter((each) => each.id === node || each.connected).map((each) => each.id);
  const asked = (nodes.length ? nodes : [0]).map((id) => get("/connz", { uid, limit: 1000, node_id: id || "" }));
  const pages = await Promise.allSettled(asked);
  const found = pages.flatMap((page) => (page.status === "fulfilled" ? page.value.connections : []));
  return { sessions: found.filter((each) => each.uid === uid), failed: nodes.filter((_, at) => pages[at].status === "rejected") };
}

export function Users({ query, isAdmin }) {
  const search = ({ uid }) => {
    location.hash = uid ? `#/users?${new URLSearchParams({ uid })}` : "#/users";
  };
  return html`
    <${Card} title=${t("Look up")}>
      <${Form} class="row" onSubmit=${search} role="search">
        <${Field} label="uid" name="uid" value=${query.uid ?? ""} hint=${t("Exact.")} />
        <button type="submit" class="primary">${t("Find")}</button>
      <//>
    <//>
    ${query.uid ? html`<${User} key=${query.uid} uid=${query.uid} isAdmin=${isAdmin} />` : html`<${List} />`}`;
}

function List() {
  const data = useData(() => get("/cluster/users", { limit: PAGE }), []);
  return html`<${Card} title=${t("Users with a device or a session")} flush>
    <${Loaded} data=${data}>
      ${({ data: rows }) => html`<${Table}
        label=${t("Users")}
        rows=${rows}
        empty=${t("No user yet.")}
        columns=${[
          { label: "uid", cell: (row) => html`<${UserLink} uid=${row.uid} />` },
          { label: t("Devices"), kind: "num", cell: (row) => number(row.device_count) },
          { label: t("Online devices"), kind: "num", cell: (row) => number(row.online_device_count) },
          { label: t("Sessions"), kind: "num", cell: (row) => number(row.conn_count) },
        ]}
      />`}
    <//>
  <//>`;
}

function User({ uid, isAdmin }) {
  const devices = useData(() => get("/cluster/devices", { uid, limit: PAGE }), [uid]);
  const sessions = useData(() => sessionsOf(uid), [uid]);
  const chats = useData(() => get("/cluster/conversations", { uid, limit: PAGE }), [uid]);
  const again = () => {
    devices.reload();
    sessions.reload();
  };
  const quit = () =>
    ask({
      title: t("Log out every device of {uid}?", { uid }),
      text: t("Their tokens end and their sockets are closed; they need a new token to log in."),
      confirm: t("Log out"),
      danger: true,
      action: async () => {
        await post("/user/device_quit", { uid, device_flag: -1 });
        again();
      },
    });
  return html`
    <${Card} title=${t("Sessions of {uid}", { uid })} flush extra=${isAdmin && html`<button class="danger" onClick=${quit}>${t("Log out every device")}</button>`}>
      <${Loaded} data=${sessions}>
        ${({ sessions: rows, failed }) => html`
          ${failed.length > 0 && html`<${Notice} tone="warn">${t("Node {n} cannot be reached", { n: failed.join(", ") })}<//>`}
          <${Sessions} rows=${rows} isAdmin=${isAdmin} changed=${again} />`}
      <//>
    <//>
    <${Card} title=${t("Devices")} flush>
      <${Loaded} data=${devices}>
        ${({ data: rows }) => html`<${Table}
          label=${t("Devices")}
          rows=${rows}
          empty=${t("No device got a token.")}
          columns=${[
            { label: t("Device"), cell: (row) => t(["App", "Web", "PC"][row.device_flag] ?? "Flag {n}", { n: row.device_flag }) },
            { label: t("Level"), cell: (row) => (row.device_level ? t("master") : t("slave")) },
            { label: t("Token"), cell: (row) => (row.token ? html`<${Badge} tone="good">${t("set")}<//>` : html`<${Badge}>${t("none")}<//>`) },
            { label: t("Sessions"), kind: "num", cell: (row) => number(row.conn_count) },
          ]}
        />`}
      <//>
    <//>
    <${Card} title=${t("Conversations")} flush>
      <${Loaded} data=${chats}>
        ${({ data: rows }) => html`<${Table}
          label=${t("Conversations")}
          rows=${rows}
          empty=${t("No conversation.")}
          columns=${[
            { label: t("Channel id"), cell: (row) => html`<${ChannelLink} id=${row.channel_id} type=${row.channel_type} />` },
            { label: t("Type"), cell: (row) => typeName(row.channel_type) },
            { label: t("Unread"), kind: "num", cell: (row) => number(row.unread_count) },
            { label: t("Read up to"), kind: "num", cell: (row) => number(row.readed_to_msg_seq) },
            { label: t("Newest seq"), kind: "num", cell: (row) => number(row.last_msg_seq) },
            { label: t("Changed"), cell: (row) => row.updated_at_format },
          ]}
        />`}
      <//>
    <//>`;
}

export function Sessions({ rows, isAdmin, changed, withUid }) {
  return html`<${Table}
    stack
    label=${t("Sessions")}
    rows=${rows}
    empty=${withUid ? t("Nobody is connected here.") : t("Not connected now.")}
    columns=${[
      ...(withUid ? [{ label: "uid", cell: (row) => html`<${UserLink} uid=${row.uid} />` }] : []),
      { label: t("Node"), kind: "num", cell: (row) => row.node_id },
      { label: t("Device"), cell: (row) => row.device.replace("(主)", ` · ${t("master")}`).replace("(从)", ` · ${t("slave")}`) },
      { label: t("Address"), kind: "mono", cell: (row) => `${row.ip}:${row.port}` },
      { label: t("Up"), kind: "num", cell: (row) => row.uptime },
      { label: t("Idle"), kind: "num", cell: (row) => row.idle },
      { label: t("In"), kind: "num", cell: (row) => number(row.in_msgs) },
      { label: t("Out"), kind: "num", cell: (row) => number(row.out_msgs) },
      { label: t("Waiting bytes"), kind: "num", cell: (row) => number(row.pending_bytes) },
      { label: t("Protocol"), kind: "num", cell: (row) => row.version },
      ...(isAdmin ? [{ label: html`<span class="hidden">${t("Actions")}</span>`, kind: "actions", cell: (row) => html`<button class="small danger" aria-label=${t("Disconnect {uid}", { uid: row.uid })} onClick=${() => askKick(row, changed)}>${t("Disconnect")}</button>` }] : []),
    ]}
  />`;
}
