import { html, useEffect, useState } from "../../vendor/htm-preact.js";
import { get } from "../api.js";
import { Chart } from "../chart.js";
import { age, brief, bytes, number } from "../format.js";
import { t } from "../i18n.js";
import { sum, useLive } from "../live.js";
import { Badge, Card, Empty, Loaded, Stat, Table } from "../ui.js";

const HISTORY_MS = 5000;
const LAG_LIMIT = 1000;

/** What an operator should know at once, worst first: [tone, text]. */
export function troubles(overview) {
  const found = [];
  const { status, figures, error } = overview;
  if (error) found.push(["bad", error]);
  for (const node of status?.nodes ?? []) {
    if (node.id !== overview.node && !node.connected) found.push(["bad", t("Node {n} cannot be reached", { n: node.id })]);
    else if (node.health) found.push(["bad", t("Node {n}: {text}", { n: node.id, text: node.health })]);
    if (node.connected && node.lag_entries > LAG_LIMIT) {
      found.push(["warn", t("Node {n} lacks {count} log entries", { n: node.id, count: number(node.lag_entries) })]);
    }
  }
  const leaderless = (status?.slots ?? []).filter((slot) => !slot.leader).length;
  if (leaderless) found.push(["bad", t("{n} slots have no leader", { n: leaderless })]);
  if (status?.job) found.push(["warn", t("Under way: {text}", { text: status.job })]);
  if (status?.settings_differ.length) {
    found.push(["warn", t("Settings of files differ from the cluster's: {text}", { text: status.settings_differ.join(", ") })]);
  }
  for (const [node, each] of Object.entries(figures)) {
    if (each?.webhook_records && each.webhook_oldest_s > 30) {
      found.push(["warn", t("Node {n}: webhook events wait for {age}", { n: node, age: age(each.webhook_oldest_s) })]);
    }
  }
  return found.sort((a, b) => (a[0] === "bad" ? 0 : 1) - (b[0] === "bad" ? 0 : 1));
}

/** The last 15 minutes of a node, asked again every few seconds; null while it cannot be asked. */
function useHistory(node) {
  const [history, setHistory] = useState(undefined);
  useEffect(() => {
    let over = false;
    let timer = 0;
    setHistory(undefined);
    const load = async () => {
      try {
        const found = await get("/web/history", { node_id: node });
        if (!over) setHistory(found);
      } catch {
        if (!over) setHistory(null);
      }
      if (!over) timer = setTimeout(load, HISTORY_MS);
    };
    load();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [node]);
  return history;
}

function Charts({ theme, nodes, own }) {
  const [node, setNode] = useState(own);
  const history = useHistory(node);
  const series = history?.series ?? {};
  const length = Math.max(0, ...Object.values(series).map((values) => values.length));
  const times = Array.from({ length }, (_, at) => history.now_ms / 1000 - (length - 1 - at) * history.interval_s);
  const line = (name, label = "") => ({ label, values: series[name] ?? times.map(() => null) });
  const charts = [
    [t("SEND per second"), "/s", line("send_per_s")],
    [t("RECV per second"), "/s", line("recv_per_s")],
    [t("SEND to SENDACK"), "ms", line("ack_p50_ms", "p50"), line("ack_p99_ms", "p99")],
    [t("SEND to RECV"), "ms", line("recv_p50_ms", "p50"), line("recv_p99_ms", "p99")],
    [t("Sessions"), "", line("sessions")],
    [t("Lag"), t("entries"), line("lag_entries")],
    [t("fsync, p99"), "ms", line("fsync_p99_ms")],
    [t("Event loop lag"), "ms", line("loop_lag_ms")],
    [t("Webhook backlog"), t("events"), line("webhook_backlog")],
  ];
  const choice = nodes.length > 1 && html`<div class="choice" role="group" aria-label=${t("Node")}>
    ${nodes.map((each) => html`<button class="small" aria-pressed=${each === node} onClick=${() => setNode(each)}>${t("Node {n}", { n: each })}</button>`)}
  </div>`;
  return html`<${Card} title=${t("Last 15 minutes")} extra=${choice}>
    ${history === null
      ? html`<${Empty}>${t("Node {n} cannot be reached", { n: node })}<//>`
      : html`<div class="charts">
          ${charts.map(([title, unit, ...lines]) => html`<${Chart} key=${title} title=${title} unit=${unit} lines=${lines} times=${times} theme=${theme} />`)}
        </div>`}
  <//>`;
}

export function nodeState(node, own) {
  if (node.id !== own && !node.connected) return html`<${Badge} tone="bad">${t("unreachable")}<//>`;
  if (node.health) return html`<${Badge} tone="bad">${node.health}<//>`;
  if (node.state !== "voter") return html`<${Badge} tone="warn">${t(node.state)}<//>`;
  return html`<${Badge} tone="good">${t("serving")}<//>`;
}

export function Overview({ theme }) {
  const { overview, rates } = useLive();
  if (!overview) return html`<${Loaded} data=${{ value: null }} />`;
  const { status, figures } = overview;
  const all = Object.values(figures);
  const nodes = status?.nodes ?? [];
  const slots = status?.slots ?? [];
  const found = troubles(overview);
  const led = slots.filter((slot) => slot.leader).length;
  const up = nodes.filter((node) => node.id === overview.node || node.connected).length;
  const lag = nodes.length ? Math.max(...nodes.map((node) => node.lag_entries)) : 0;
  const rate = Object.values(rates);
  const backlog = sum(all.map((each) => each?.webhook_records)) ?? 0;
  return html`
    <div class="troubles" role="status">
      ${found.length
        ? found.map(([tone, text]) => html`<div class="notice ${tone}">${text}</div>`)
        : html`<div class="notice good">${t("All is well: every node serves, every slot has a leader")}</div>`}
    </div>
    <dl class="stats">
      <${Stat} label=${t("Nodes")} value=${`${up}/${nodes.length}`} tone=${up < nodes.length ? "bad" : ""} note=${t("reachable")} />
      <${Stat} label=${t("Slots led")} value=${`${led}/${slots.length}`} tone=${led < slots.length ? "bad" : ""} note=${t("have a leader")} />
      <${Stat} label=${t("Sessions")} value=${number(sum(all.map((each) => each?.sessions)))} note=${t("{n} sockets", { n: number(sum(all.map((each) => each?.connections))) })} />
      <${Stat} label="SEND" value=${brief(sum(rate.map((each) => each.sends)))} unit="/s" note=${t("all nodes")} />
      <${Stat} label="RECV" value=${brief(sum(rate.map((each) => each.recvs)))} unit="/s" note=${t("all nodes")} />
      <${Stat} label=${t("Lag")} value=${number(lag)} tone=${lag > LAG_LIMIT ? "warn" : ""} note=${t("entries, at most")} />
      <${Stat} label=${t("Webhook backlog")} value=${number(backlog)} note=${t("events")} />
    </dl>
    <${Charts} theme=${theme} nodes=${nodes.map((node) => node.id)} own=${overview.node} />
    <${Card} title=${t("Nodes")} flush>
      <${Table}
        stack
        label=${t("Nodes")}
        rows=${nodes}
        columns=${[
          { label: t("Node"), cell: (node) => html`<b>${node.id}</b>${node.id === overview.node ? html` <span class="muted">${t("asked here")}</span>` : ""}` },
          { label: t("State"), cell: (node) => nodeState(node, overview.node) },
          { label: t("Leads"), kind: "num", cell: (node) => number(node.leads) },
          { label: t("Lag"), kind: "num", cell: (node) => number(node.lag_entries) },
          { label: t("Sessions"), kind: "num", cell: (node) => number(figures[node.id]?.sessions) },
          { label: "SEND/s", kind: "num", cell: (node) => brief(rates[node.id]?.sends) },
          { label: "RECV/s", kind: "num", cell: (node) => brief(rates[node.id]?.recvs) },
          { label: t("Log"), kind: "num", cell: (node) => bytes(figures[node.id]?.log_bytes) },
          { label: t("Up"), kind: "num", cell: (node) => age(figures[node.id]?.uptime_s) },
          { label: t("Version"), cell: (node) => node.version || "–" },
        ]}
      />
    <//>`;
}
