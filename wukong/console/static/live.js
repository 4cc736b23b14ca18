// What the server tells by itself: the cluster's status and the figures of every node, every two seconds.
import { useEffect, useState } from "../vendor/htm-preact.js";

// overview: the newest; rates: per second and node, since the one before.
export const live = { overview: null, rates: {}, connected: false };
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

function take(event) {
  const now = JSON.parse(event.data);
  if (before && now.now_ms === before.now_ms) return;
  live.rates = ratesOf(now);
  live.overview = now;
  live.connected = true;
  before = now;
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
  Object.assign(live, { overview: null, rates: {} });
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

/** Of what is known; null if nothing is. */
export function sum(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  return known.length ? known.reduce((a, b) => a + b, 0) : null;
}
