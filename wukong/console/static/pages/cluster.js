import { html } from "../../vendor/htm-preact.js";
import { post } from "../api.js";
import { bytes, number } from "../format.js";
import { t } from "../i18n.js";
import { useLive } from "../live.js";
import { ask, Badge, Card, Field, Loaded, Notice, Table } from "../ui.js";
import { nodeState } from "./overview.js";

const EVERY_SLOT = -1;

function askTransfer(slot, voters, leader) {
  const title = slot === EVERY_SLOT ? t("Let one node lead every slot") : t("Let another node lead slot {n}", { n: slot });
  const others = voters.filter((node) => node !== leader);
  ask({
    title,
    text: t("The present leaders hand over once the node has caught up. Nothing is lost; balancing goes on afterwards."),
    fields: html`<${Field} label=${t("New leader")} name="node">
      ${(id) => html`<select id=${id} name="node">${others.map((node) => html`<option value=${node}>${t("Node {n}", { n: node })}</option>`)}</select>`}
    <//>`,
    confirm: t("Transfer"),
    action: ({ node }) => post("/cluster/transfer", { node: Number(node), slot }),
  });
}

function askRemove(node) {
  ask({
    title: t("Remove node {n} from the cluster?", { n: node.id }),
    text: t("It hands over what it leads, stops voting, and its copy counts no more. Type its number to confirm."),
    fields: html`<${Field} label=${t("Number of the node")} name="typed" inputmode="numeric" required pattern=${String(node.id)} />`,
    confirm: t("Remove"),
    danger: true,
    action: () => post("/cluster/member/remove", { node: node.id }),
  });
}

function askAdd() {
  ask({
    title: t("Add a node"),
    text: t("It may be started before or after. It gets a copy of every slot and votes when it has caught up."),
    fields: html`
      <${Field} label=${t("Number of the node")} name="node" inputmode="numeric" pattern="[0-9]+" required />
      <${Field} label=${t("Address for other nodes")} name="addr" placeholder="10.0.0.4:11110" required />`,
    confirm: t("Add"),
    action: ({ node, addr }) => post("/cluster/member/add", { node: Number(node), addr }),
  });
}

export function Cluster({ isAdmin }) {
  const { overview } = useLive();
  if (!overview) return html`<${Loaded} data=${{ value: null }} />`;
  const { status, figures } = overview;
  if (!status) return html`<${Notice} tone="bad">${overview.error || t("The cluster cannot be asked")}<//>`;
  const voters = status.nodes.filter((node) => node.state === "voter").map((node) => node.id);
  return html`
    ${status.job && html`<${Notice} tone="warn">${t("Under way: {text}", { text: status.job })}<//>`}
    ${status.snapshots.map((line) => html`<${Notice}>${t("Copy under way: {text}", { text: line })}<//>`)}
    <${Card} title=${t("Nodes")} flush extra=${isAdmin && html`<button onClick=${askAdd}>${t("Add a node")}</button>${voters.length > 1 && html`<button onClick=${() => askTransfer(EVERY_SLOT, voters, 0)}>${t("Transfer all")}</button>`}`}>
      <${Table}
        stack
        label=${t("Nodes")}
        rows=${status.nodes}
        columns=${[
          { label: t("Node"), cell: (node) => html`<b>${node.id}</b>` },
          { label: t("State"), cell: (node) => nodeState(node, overview.node) },
          { label: t("Role"), cell: (node) => t(node.state) },
          { label: t("Address"), kind: "mono", cell: (node) => node.addr || "–" },
          { label: t("Leads"), kind: "num", cell: (node) => number(node.leads) },
          { label: t("Lag"), kind: "num", cell: (node) => number(node.lag_entries) },
          { label: t("Log"), kind: "num", cell: (node) => bytes(figures[node.id]?.log_bytes) },
          { label: t("Disk"), kind: "mono", cell: (node) => node.disk },
          { label: t("Version"), cell: (node) => node.version || "–" },
          ...(isAdmin && status.nodes.length > 1
            ? [{ label: html`<span class="hidden">${t("Actions")}</span>`, kind: "actions", cell: (node) => html`<button class="small danger" onClick=${() => askRemove(node)}>${t("Remove")}</button>` }]
            : []),
        ]}
      />
    <//>
    <${Card} title=${t("Slots")} flush>
      <${Table}
        label=${t("Slots")}
        rows=${status.slots}
        columns=${[
          { label: t("Slot"), kind: "num", cell: (slot) => slot.id },
          { label: t("Leader"), cell: (slot) => (slot.leader ? t("Node {n}", { n: slot.leader }) : html`<${Badge} tone="bad">${t("none")}<//>`) },
          { label: t("Term"), kind: "num", cell: (slot) => number(slot.term) },
          { label: t("Committed"), kind: "num", cell: (slot) => number(slot.commit) },
          { label: t("Applied"), kind: "num", cell: (slot) => number(slot.applied) },
          {
            label: t("Members, and what they lack"),
            kind: "wide",
            cell: (slot) => html`<span class="members">${slot.members.map((member) => {
              const lack = member.match === undefined ? null : Math.max(0, slot.commit - member.match);
              const tone = lack === null ? "plain" : lack > 1000 ? "warn" : "good";
              return html`<${Badge} tone=${member.node === slot.leader ? "lead" : tone}>${member.node}${member.voter ? "" : ` ${t("learner")}`}${lack ? ` −${number(lack)}` : ""}<//>`;
            })}</span>`,
          },
          ...(isAdmin && voters.length > 1
            ? [{ label: html`<span class="hidden">${t("Actions")}</span>`, kind: "actions", cell: (slot) => html`<button class="small" aria-label=${t("Transfer slot {n}", { n: slot.id })} onClick=${() => askTransfer(slot.id, voters, slot.leader)}>${t("Transfer")}</button>` }]
            : []),
        ]}
      />
    <//>`;
}
