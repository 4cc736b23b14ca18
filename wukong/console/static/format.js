// Numbers, sizes and times as people read them.
import { locale, t } from "./i18n.js";

export const NOTHING = "–";

export function number(value, digits = 0) {
  if (value === null || value === undefined || Number.isNaN(value)) return NOTHING;
  return new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value);
}

/** Three digits that matter: 0.42, 3.1, 18, 12,400. */
export function brief(value) {
  if (value === null || value === undefined) return NOTHING;
  return number(value, value < 1 ? 2 : value < 10 ? 1 : 0);
}

export function bytes(value) {
  if (value === null || value === undefined) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${number(value, at && value < 10 ? 1 : 0)} ${units[at]}`;
}

export function age(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  const s = Math.floor(seconds);
  if (s < 60) return t("{n} s", { n: s });
  if (s < 3600) return t("{n} min", { n: Math.floor(s / 60) });
  if (s < 86400) return t("{n} h", { n: Math.floor(s / 3600) });
  return t("{n} d", { n: Math.floor(s / 86400) });
}

/** ms: unix milliseconds. */
export function time(ms) {
  if (!ms) return NOTHING;
  return new Date(ms).toLocaleString(locale(), { dateStyle: "medium", timeStyle: "medium" });
}

/** To the millisecond; with the date where it is not today's. */
export function clock(ms) {
  const at = new Date(ms);
  const sameDay = at.toDateString() === new Date().toDateString();
  return at.toLocaleString(locale(), { ...(sameDay ? {} : { month: "short", day: "numeric" }), hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });
}

/** What is in a payload: its text where it is JSON of the usual kind, else as it is. */
export function payload(base64) {
  let raw;
  try {
    raw = Uint8Array.from(atob(base64 || ""), (each) => each.charCodeAt(0));
  } catch {
    return base64;
  }
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(raw);
  } catch {
    return t("{n} bytes", { n: raw.length });
  }
  try {
    const value = JSON.parse(text);
    return typeof value.content === "string" ? value.content : text;
  } catch {
    return text;
  }
}

export const TYPES = [
  [1, "Person"],
  [2, "Group"],
  [3, "Customer service"],
  [4, "Community"],
  [5, "Community topic"],
  [6, "Info"],
  [7, "Data"],
  [8, "Temporary"],
  [9, "Live"],
  [10, "Visitors"],
  [11, "Agent"],
  [12, "Agent group"],
];

export function typeName(type) {
  const found = TYPES.find(([value]) => value === Number(type));
  return found ? t(found[1]) : t("Type {n}", { n: type });
}
