import { html, useState } from "../../vendor/htm-preact.js";
import { get } from "../api.js";
import { number } from "../format.js";
import { t } from "../i18n.js";
import { useLive } from "../live.js";
import { Card, Field, Form, Loaded, useData } from "../ui.js";
import { Sessions } from "./users.js";

const PAGE = 50;
const SORTS = [
  ["id", "Oldest first"],
  ["idDesc", "Newest first"],
  ["inMsgDesc", "Most messages in"],
  ["outMsgDesc", "Most messages out"],
  ["idleDesc", "Longest idle"],
];

export function Connections({ query, isAdmin }) {
  const { overview } = useLive();
  const [offset, setOffset] = useState(0);
  const own = overview?.node ?? 0;
  const asked = { node: query.node ?? "", uid: query.uid ?? "", sort: query.sort ?? "idDesc" };
  const data = useData(
    () => get("/connz", { node_id: asked.node, uid: asked.uid, sort: asked.sort, offset, limit: PAGE }),
    [asked.node, asked.uid, asked.sort, offset],
  );
  const find = (values) => {
    setOffset(0);
    location.hash = `#/connections?${new URLSearchParams(values)}`;
  };
  const nodes = overview?.status?.nodes ?? [];
  return html`
    <${Card} title=${t("Look up")}>
      <${Form} class="row" onSubmit=${find} role="search">
        <${Field} label=${t("Node")} name="node">
          ${(id) => html`<select id=${id} name="node">
            ${nodes.map((node) => html`<option value=${node.id} selected=${String(node.id) === String(asked.node || own)}>${t("Node {n}", { n: node.id })}${node.id !== own && !node.connected ? ` (${t("unreachable")})` : ""}</option>`)}
          </select>`}
        <//>
        <${Field} label=${t("uid contains")} name="uid" value=${asked.uid} />
        <${Field} label=${t("Order")} name="sort">
          ${(id) => html`<select id=${id} name="sort">${SORTS.map(([value, name]) => html`<option value=${value} selected=${value === asked.sort}>${t(name)}</option>`)}</select>`}
        <//>
        <button type="submit" class="primary">${t("Find")}</button>
      <//>
    <//>
    <${Card} title=${t("Connections")} flush extra=${data.value && html`<span class="muted">${t("{n} sockets on this node", { n: number(data.value.total) })}</span><button onClick=${data.reload}>${t("Look again")}</button>`}>
      <${Loaded} data=${data}>
        ${({ connections }) => html`
          <${Sessions} rows=${connections} isAdmin=${isAdmin} changed=${data.reload} withUid />
          ${(connections.length === PAGE || offset > 0) && html`<div class="pager">
            <button disabled=${!offset} onClick=${() => setOffset(Math.max(0, offset - PAGE))}>${t("Back")}</button>
            <button disabled=${connections.length < PAGE} onClick=${() => setOffset(offset + PAGE)}>${t("More")}</button>
          </div>`}`}
      <//>
    <//>`;
}
