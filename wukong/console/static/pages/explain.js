// GET /message/explain in sentences; its fields are told in docs/explain.md.
import { html, useState } from "../../vendor/htm-preact.js";
import { get } from "../api.js";
import { clock, number, time, TYPES, typeName } from "../format.js";
import { t } from "../i18n.js";
import { Badge, Card, Facts, Field, Form, Loaded, Notice, Stat, Table, useData } from "../ui.js";
import { UserLink } from "./channels.js";

const WHY = {
  member: "a member when it was sent",
  implicit: "a member by the channel's id",
  named: "the sender named him as a recipient",
  not_named: "the sender named other recipients",
  joined_later: "became a member later",
  removed_before: "was removed before",
  no_member: "no membership is known",
  pushed: "a node pushed it to him; his membership of then is not kept",
  not_kept: "the message is not stored, so who was a member then is not known",
  system_account: "the system account gets no pushes",
};

const ENDED = {
  slow: "it did not read: too much waited for it",
  idle: "nothing came from it for too long",
  client_closed: "the client closed it",
  connection_lost: "the connection was lost",
  protocol_error: "it broke the protocol",
  kicked: "it was told to go",
  replaced: "the same device logged in again",
  let_go: "the node let it go, to connect again",
  fenced: "the node lost touch with the others",
  stopped: "the node was shut",
  node_ended: "its node ended or restarted",
};

export function Explain({ query }) {
  const find = (values) => {
    location.hash = `#/explain?${new URLSearchParams(Object.entries(values).filter(([, value]) => value))}`;
  };
  return html`
    <${Card} title=${t("Who gets a message, and why")}>
      <${Form} class="row" onSubmit=${find} role="search" key=${JSON.stringify(query)}>
        <${Field} label=${t("Channel id")} name="id" value=${query.id ?? ""} required />
        <${Field} label=${t("Type")} name="type">
          ${(id) => html`<select id=${id} name="type">${TYPES.map(([value, name]) => html`<option value=${value} selected=${String(value) === (query.type ?? "2")}>${t(name)}</option>`)}</select>`}
        <//>
        <${Field} label="seq" name="seq" value=${query.seq ?? ""} inputmode="numeric" pattern="[0-9]+" required />
        <${Field} label="uid" name="uid" value=${query.uid ?? ""} hint=${t("Empty for all.")} />
        <button type="submit" class="primary">${t("Explain")}</button>
      <//>
    <//>
    ${query.id && query.seq && html`<${Answer} key=${JSON.stringify(query)} query=${query} />`}`;
}

function Answer({ query }) {
  const [starts, setStarts] = useState([""]);
  const start = starts[starts.length - 1];
  const data = useData(
    () => get("/message/explain", { channel_id: query.id, channel_type: query.type ?? 2, message_seq: query.seq, uid: query.uid, start, limit: 50 }),
    [start],
  );
  return html`<${Loaded} data=${data}>
    ${({ message, nodes, counts, users, next, channel_id, channel_type }) => html`
      <${Card} title=${t("Message {seq} of {id}", { seq: message.message_seq, id: channel_id })}>
        <${Facts} pairs=${[
          [t("Type"), typeName(channel_type)],
          [t("From"), html`<${UserLink} uid=${message.from_uid} />`],
          [t("Taken by the log"), time(message.sent_ms)],
          [t("Message id"), html`<span class="mono">${message.message_idstr}</span>`],
          ["client_msg_no", html`<span class="mono">${message.client_msg_no || "–"}</span>`],
        ]} />
      <//>
      ${counts && html`<dl class="stats">
        <${Stat} label=${t("Recipients")} value=${number(counts.recipients)} note=${t("without the sender")} />
        <${Stat} label=${t("Pushed")} value=${number(counts.pushed)} note=${t("to a device at least")} />
        <${Stat} label=${t("Confirmed")} value=${number(counts.acknowledged)} note="RECVACK" />
        <${Stat} label=${t("By sync")} value=${number(counts.by_sync)} note=${counts.exact ? t("got no push") : t("at most")} />
      </dl>`}
      ${nodes.filter((node) => !node.covers).map((node) => html`<${Notice} tone="warn">${
        !node.answered ? t("Node {n} did not answer; what it pushed is not known.", { n: node.node })
          : !node.recording ? t("Node {n} keeps no record of pushes.", { n: node.node })
          : t("Node {n} does not remember everything that it pushed at that time.", { n: node.node })}<//>`)}
      <${Card} title=${t("Users")} flush>
        <${Table}
          stack
          label=${t("Users")}
          rows=${users}
          empty=${t("Nobody.")}
          columns=${[
            { label: "uid", kind: "top", cell: (user) => html`<${UserLink} uid=${user.uid} />${user.sender && html`<br /><span class="muted">${t("sender")}</span>`}` },
            { label: t("Recipient"), kind: "top", cell: (user) => html`<${Verdict} user=${user} />` },
            { label: t("Why"), kind: "wide top", cell: (user) => html`<${Why} user=${user} />` },
            { label: t("How it came"), kind: "wide top", cell: (user) => html`<${How} user=${user} />` },
          ]}
        />
        ${(next || starts.length > 1) && html`<div class="pager">
          <button disabled=${starts.length < 2} onClick=${() => setStarts(starts.slice(0, -1))}>${t("Back")}</button>
          <button disabled=${!next} onClick=${() => setStarts([...starts, next])}>${t("More")}</button>
        </div>`}
      <//>`}
  <//>`;
}

function Verdict({ user }) {
  if (user.recipient === null) return html`<${Badge} tone="warn">${t("not known")}<//>`;
  return user.recipient ? html`<${Badge} tone="good">${t("yes")}<//>` : html`<${Badge}>${t("no")}<//>`;
}

function Why({ user }) {
  const { membership: found, earlier } = user;
  const lines = [t(WHY[user.why] ?? user.why)];
  if (found) {
    lines.push(t("since log index {index}, from seq {seq} on", { index: number(found.from_log_index), seq: number(found.from_seq + 1) }));
    if (found.until_log_index !== undefined) {
      lines.push(t("until log index {index}, seq {seq}", { index: number(found.until_log_index), seq: number(found.until_seq) }));
    }
  }
  if (earlier) lines.push(t("was a member before, until seq {seq}", { seq: number(earlier.until_seq) }));
  if (!user.certain) lines.push(t("as far as memberships are kept"));
  if (user.denied) lines.push(t("on the deny list now: may not send, still receives"));
  return html`<${Lines} lines=${lines} />`;
}

function How({ user }) {
  const lines = user.sessions.map((session) => sessionLine(session, user.sender));
  if (user.sync && user.recipient !== false) lines.push(syncLine(user.sync, user.sessions.some((session) => session.pushed_ms)));
  if (!user.sessions.length) lines.unshift(user.connected ? t("connected") : t("not connected"));
  return html`<${Lines} lines=${lines} />`;
}

function sessionLine(session, isSender) {
  const device = ["App", "Web", "PC"][session.device_flag] ?? t("Flag {n}", { n: session.device_flag });
  const parts = [];
  if (session.pushed_ms) parts.push(t("pushed {time}", { time: clock(session.pushed_ms) }));
  if (session.repeated_ms.length) parts.push(t("repeated {n} times", { n: session.repeated_ms.length }));
  if (session.acknowledged_ms) parts.push(t("confirmed {time}", { time: clock(session.acknowledged_ms) }));
  if (!session.known) parts.push(t("what was pushed is not known any more"));
  else if (!session.pushed_ms) parts.push(isSender ? t("not pushed here; the session that sends gets none") : t("not pushed here"));
  if (session.state !== "connected") {
    const reason = t(ENDED[session.why] ?? session.why);
    parts.push(session.ended_ms ? t("ended {time}: {why}", { time: clock(session.ended_ms), why: reason }) : t("ended: {why}", { why: reason }));
  }
  return t("{device} on node {n}: {what}", { device, n: session.node, what: parts.join(t(", ")) });
}

function syncLine(sync, pushed) {
  if (sync.way === "none") return t("not stored: no sync brings it");
  if (sync.done) return t("read, or confirmed");
  if (pushed) return t("not read yet: sync brings it too, from seq {seq} on", { seq: number(sync.from_seq) });
  return t("comes by sync, from seq {seq} on", { seq: number(sync.from_seq) });
}

const Lines = ({ lines }) => html`<ul class="lines">${lines.map((line) => html`<li>${line}</li>`)}</ul>`;
