// What the server tells by itself: the cluster's status and the figures of every node, every two seconds.
import { useEffect, useState } from "../vendor/htm-preact.js";

const KEPT_S = 900;

// The newest overview with rates; points: of the whole cluster, for charts. error: nothing was heard for a while.
export const live = { overview: null, rates: {}, points: [], connected: false, since: 0 };
const listeners = new Set();
let source = null;
let before = null;

function ratesOf(now) {
  const rates = {};
  for (const [node, figures] of Object.entries(now.figures)) {
    const old = before?.figures[node];
    const seconds = before ? (now.now_ms - before.now_ms) / 1000 : 0;
    // A node that began anew counts from zero.
    const known = figures && old && seconds > 0 && figures.uptime_s >= old.uptime_s;
    rates[node] = {
      sends: known ? Math.max(0, figures.sends - old.sends) / seconds : null,
      recvs: known ? Math.max(0, figures.recvs - old.recvs) / seconds : null,
    };
  }
  return rates;
}

function sum(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  return known.length ? known.reduce((a, b) => a + b, 0) : null;
}

function take(event) {
  const now = JSON.parse(event.data);
  if (before && now.now_ms === before.now_ms) return;
  live.rates = ratesOf(now);
  live.overview = now;
  live.connected = true;
  before = now;
  const rates = Object.values(live.rates);
  const nodes = now.status?.nodes ?? [];
  live.points.push({
    at: now.now_ms,
    send_per_s: sum(rates.map((rate) => rate.sends)),
    recv_per_s: sum(rates.map((rate) => rate.recvs)),
    sessions: sum(Object.values(now.figures).map((figures) => figures?.sessions)),
    lag_entries: nodes.length ? Math.max(...nodes.map((node) => node.lag_entries)) : null,
  });
  while (live.points.length && live.points[0].at < now.now_ms - KEPT_S * 1000) live.points.shift();
  tell();
}

function tell() {
  for (const listener of listeners) listener();
}

export function connect(whenRefused) {
  close();
  source = new EventSource("/web/events");
  source.addEventListener("overview", take);
  source.addEventListener("error", () => {
    live.connected = false;
    tell();
    if (source && source.readyState === EventSource.CLOSED) {
      close();
      whenRefused();
    }
  });
}

export function close() {
  source?.close();
  source = null;
  live.connected = false;
}

export function forget() {
  close();
  before = null;
  Object.assign(live, { overview: null, rates: {}, points: [] });
}

/** The newest figures; the component is drawn again with each. */
export function useLive() {
  const [, again] = useState(0);
  useEffect(() => {
    const listener = () => again((count) => count + 1);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }, []);
  return live;
}

export { sum };
