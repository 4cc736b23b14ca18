import { html } from "../../vendor/htm-preact.js";
import { age, bytes, NOTHING, number, time } from "../format.js";
import { t } from "../i18n.js";
import { sum, useLive } from "../live.js";
import { Badge, Card, Loaded, Notice, Stat, Table } from "../ui.js";

const total = (nodes, name) => {
  const found = {};
  for (const figures of nodes) {
    for (const [event, count] of Object.entries(figures?.[name] ?? {})) found[event] = (found[event] ?? 0) + count;
  }
  return found;
};

export function Webhooks() {
  const { overview } = useLive();
  if (!overview) return html`<${Loaded} data=${{ value: null }} />`;
  const rows = Object.entries(overview.figures).map(([node, figures]) => ({ node, ...figures, known: figures !== null }));
  const known = rows.filter((row) => row.known);
  const [delivered, retried, dropped] = ["webhook_delivered", "webhook_retried", "webhook_dropped"].map((name) => total(known, name));
  const events = [...new Set([...Object.keys(delivered), ...Object.keys(retried), ...Object.keys(dropped)])].sort();
  const lost = sum(Object.values(dropped)) ?? 0;
  return html`
    ${!known.some((row) => row.webhook_on) && html`<${Notice}>${t("No back end is configured: set webhook.httpAddr or webhook.grpcAddr.")}<//>`}
    <dl class="stats">
      <${Stat} label=${t("Waiting")} value=${number(sum(known.map((row) => row.webhook_records)))} note=${t("events")} />
      <${Stat} label=${t("Size")} value=${bytes(sum(known.map((row) => row.webhook_bytes)))} note=${t("of what waits")} />
      <${Stat} label=${t("Oldest")} value=${age(Math.max(0, ...known.map((row) => row.webhook_oldest_s)))} note=${t("since it came")} />
      <${Stat} label=${t("Delivered")} value=${number(sum(Object.values(delivered)) ?? 0)} note=${t("since the start")} />
      <${Stat} label=${t("Tried again")} value=${number(sum(Object.values(retried)) ?? 0)} note=${t("requests")} />
      <${Stat} label=${t("Dropped")} value=${number(lost)} tone=${lost ? "bad" : ""} note=${t("events")} />
    </dl>
    <${Card} title=${t("By node")} flush>
      <${Table}
        stack
        label=${t("By node")}
        rows=${rows}
        columns=${[
          { label: t("Node"), cell: (row) => html`<b>${row.node}</b>` },
          { label: t("Back end"), cell: (row) => (!row.known ? html`<${Badge} tone="bad">${t("unreachable")}<//>` : row.webhook_on ? html`<${Badge} tone="good">${t("configured")}<//>` : html`<${Badge}>${t("none")}<//>`) },
          { label: t("Waiting"), kind: "num", cell: (row) => number(row.webhook_records) },
          { label: t("Oldest"), kind: "num", cell: (row) => age(row.webhook_oldest_s) },
          { label: t("Last error"), kind: "wide", cell: (row) => row.webhook_error || NOTHING },
          { label: t("When"), cell: (row) => time(row.webhook_error_ms) },
        ]}
      />
    <//>
    <${Card} title=${t("By event")} flush>
      <${Table}
        label=${t("By event")}
        rows=${events}
        empty=${t("No event yet.")}
        columns=${[
          { label: t("Event"), kind: "mono", cell: (event) => event },
          { label: t("Delivered"), kind: "num", cell: (event) => number(delivered[event] ?? 0) },
          { label: t("Tried again"), kind: "num", cell: (event) => number(retried[event] ?? 0) },
          { label: t("Dropped"), kind: "num", cell: (event) => number(dropped[event] ?? 0) },
        ]}
      />
    <//>`;
}
