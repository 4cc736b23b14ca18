import { html } from "../../vendor/htm-preact.js";
import { get } from "../api.js";
import { TYPES } from "../format.js";
import { t } from "../i18n.js";
import { Card, Field, Form, Loaded, useData } from "../ui.js";

export function Explain({ query }) {
  const find = (values) => {
    location.hash = `#/explain?${new URLSearchParams(Object.entries(values).filter(([, value]) => value))}`;
  };
  return html`
    <${Card} title=${t("Who got this message, and why not")}>
      <${Form} class="row" onSubmit=${find} role="search">
        <${Field} label=${t("Channel id")} name="id" value=${query.id ?? ""} required />
        <${Field} label=${t("Type")} name="type">
          ${(id) => html`<select id=${id} name="type">${TYPES.map(([number, name]) => html`<option value=${number} selected=${String(number) === (query.type ?? "2")}>${t(name)}</option>`)}</select>`}
        <//>
        <${Field} label="seq" name="seq" value=${query.seq ?? ""} inputmode="numeric" pattern="[0-9]+" required />
        <${Field} label="uid" name="uid" value=${query.uid ?? ""} hint=${t("Empty for all subscribers.")} />
        <button type="submit" class="primary">${t("Explain")}</button>
      <//>
    <//>
    ${query.id && query.seq && html`<${Answer} key=${JSON.stringify(query)} query=${query} />`}`;
}

function Answer({ query }) {
  const data = useData(
    () => get("/message/explain", { channel_id: query.id, channel_type: query.type ?? 2, message_seq: query.seq, uid: query.uid }),
    [],
  );
  return html`<${Loaded} data=${data}>${(found) => html`<${Card}><pre>${JSON.stringify(found, null, 2)}</pre><//>`}<//>`;
}
