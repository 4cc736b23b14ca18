// The few parts that all pages are made of.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/htm-preact.js";
import { t } from "./i18n.js";

export const Badge = ({ tone = "plain", children }) => html`<span class="badge ${tone}">${children}</span>`;

export const Notice = ({ tone = "plain", children }) => html`<div class="notice ${tone}" role="status">${children}</div>`;

export function Card({ title, extra, children, flush }) {
  return html`<section class="card">
    ${(title || extra) && html`<header><h2>${title}</h2><div class="actions">${extra}</div></header>`}
    <div class=${flush ? "flush" : "body"}>${children}</div>
  </section>`;
}

export function Stat({ label, value, unit, tone = "", note }) {
  return html`<div class="stat ${tone}">
    <dt>${label}</dt>
    <dd><span class="value">${value}</span>${unit && html` <span class="unit">${unit}</span>`}</dd>
    ${note && html`<dd class="note">${note}</dd>`}
  </div>`;
}

/** columns: {label, cell(row), kind}; kind: num, mono, wide or actions. stack: on a phone each row becomes a list of its
 * cells with their labels; roles are named, since browsers forget those of a table that is laid out in another way. */
export function Table({ label, columns, rows, empty, stack }) {
  if (!rows.length) return html`<p class="empty">${empty ?? t("Nothing here")}</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}>
    <table role="table" class=${stack ? "stack" : ""}>
      <thead role="rowgroup"><tr role="row">${columns.map((each) => html`<th role="columnheader" scope="col" class=${each.kind ?? ""}>${each.label}</th>`)}</tr></thead>
      <tbody role="rowgroup">
        ${rows.map((row) => html`<tr role="row">${columns.map((each) => html`<td role="cell" class=${each.kind ?? ""} data-label=${typeof each.label === "string" ? each.label : ""}>${each.cell(row)}</td>`)}</tr>`)}
      </tbody>
    </table>
  </div>`;
}

export function Facts({ pairs }) {
  return html`<dl class="facts">
    ${pairs.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}
  </dl>`;
}

let fields = 0;

export function Field({ label, name, hint, children, ...rest }) {
  const id = useMemo(() => `field-${++fields}`, []);
  return html`<div class="field">
    <label for=${id}>${label}</label>
    ${children ? children(id) : html`<input id=${id} name=${name} autocomplete="off" spellcheck="false" ...${rest} />`}
    ${hint && html`<small>${hint}</small>`}
  </div>`;
}

/** A form that hands its fields on as an object. */
export function Form({ onSubmit, children, ...rest }) {
  const submit = (event) => {
    event.preventDefault();
    onSubmit(Object.fromEntries(new FormData(event.currentTarget)), event.currentTarget);
  };
  return html`<form onSubmit=${submit} ...${rest}>${children}</form>`;
}

// -- dialogs: one at a time; the browser keeps the focus inside and gives it back

let showDialog = () => {};

/** Asks before something is done. done: called after `action`, which may fail with a text. */
export function ask({ title, text, fields, confirm, danger, action }) {
  showDialog({ title, text, fields, confirm, danger, action });
}

export function DialogHost() {
  const [asked, setAsked] = useState(null);
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const element = useRef(null);
  showDialog = (wanted) => {
    setError("");
    setAsked(wanted);
  };
  useEffect(() => {
    if (asked && element.current && !element.current.open) element.current.showModal();
  }, [asked]);
  if (!asked) return null;
  const close = () => {
    element.current?.close();
    setAsked(null);
  };
  const submit = async (values) => {
    setBusy(true);
    try {
      await asked.action(values);
      close();
      toast(t("Done"));
    } catch (failure) {
      setError(t(failure.message));
    } finally {
      setBusy(false);
    }
  };
  return html`<dialog ref=${element} aria-labelledby="dialog-title" onCancel=${(event) => (event.preventDefault(), close())}>
    <${Form} onSubmit=${submit}>
      <h2 id="dialog-title">${asked.title}</h2>
      ${asked.text && html`<p>${asked.text}</p>`}
      ${asked.fields}
      ${error && html`<div class="notice bad" role="alert">${error}</div>`}
      <div class="buttons">
        <button type="button" onClick=${close}>${t("Cancel")}</button>
        <button type="submit" class=${asked.danger ? "danger" : "primary"} disabled=${busy}>${asked.confirm}</button>
      </div>
    <//>
  </dialog>`;
}

// -- short messages

let showToast = () => {};
export const toast = (text, tone = "good") => showToast(text, tone);

export function ToastHost() {
  const [shown, setShown] = useState(null);
  const timer = useRef(0);
  showToast = (text, tone) => {
    clearTimeout(timer.current);
    setShown({ text, tone });
    timer.current = setTimeout(() => setShown(null), 4000);
  };
  return html`<div class="toasts" role="status" aria-live="polite">
    ${shown && html`<div class="toast ${shown.tone}">${shown.text}</div>`}
  </div>`;
}

// -- data

/** What `load` gives: {value, error, reload}. Loaded again when one of `on` changes; late answers are dropped. */
export function useData(load, on) {
  const [state, setState] = useState({ value: null, error: null });
  const turn = useRef(0);
  const reload = async () => {
    const mine = ++turn.current;
    try {
      const value = await load();
      if (mine === turn.current) setState({ value, error: null });
    } catch (error) {
      if (mine === turn.current) setState({ value: null, error });
    }
  };
  useEffect(() => {
    setState({ value: null, error: null });
    reload();
    return () => {
      turn.current += 1;
    };
  }, on);
  return { ...state, reload };
}

/** Waiting, the fault, or what `children` makes of the value. */
export function Loaded({ data, children }) {
  if (data.error) return html`<${Notice} tone="bad">${t(data.error.message)}<//>`;
  if (data.value === null) return html`<p class="empty" aria-busy="true">${t("Loading …")}</p>`;
  return children(data.value);
}

export const Empty = ({ children }) => html`<p class="empty">${children}</p>`;
