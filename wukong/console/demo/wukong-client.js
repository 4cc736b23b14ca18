/**
 * A small client of the Wukong (WuKongIM v2) protocol: JSON-RPC in WebSocket text frames. One file, no dependencies; copy it.
 *
 *   const client = new WukongClient({
 *     login: async () => ({ url: "ws://127.0.0.1:5200", uid: "alice", token: "..." }),   // asked before each connect
 *   });
 *   client.addEventListener("state", event => ...);     // detail: {state, reason?}; states see below
 *   client.addEventListener("message", event => ...);   // detail: a message, see #onRecv
 *   client.start();
 *   const { messageId, messageSeq } = await client.send("bob", PERSON, { type: 1, content: "hello" });
 *   client.stop();
 *
 * States: "connecting", "connected", "waiting" (lost; it will try again), "stopped" (by stop(), or kicked: reason says why).
 *
 * What it guarantees: a message has one client_msg_no for its life, and is sent again with it after each reconnect until the
 * server has answered. What it does not: messages that come while it is away. On "connected", ask your back end for what is
 * behind the last message_seq of each channel; a message may also come twice, so drop a message_seq that you have.
 */

export const PERSON = 1;
export const GROUP = 2;
const WEB = 1;
const SUCCESS = 1;
const KICKED = 12;

const PING_MS = 30_000;
const ANSWER_MS = 10_000;
const RETRY_MIN_MS = 300;
const RETRY_MAX_MS = 10_000;
const PENDING_LIMIT_COUNT = 1_000;

/** Why the server refused a message: the reason codes of WuKongIM. */
export const REASONS = {
  2: "the login was refused", 3: "not a member of this group", 4: "on the deny list", 11: "rate limited",
  13: "not on the allow list", 15: "the server failed; try again", 19: "banned", 24: "the group was disbanded", 25: "may not send",
};

export class Refused extends Error {
  /** code: a reason code; 0 for a message that was never sent. */
  constructor(code, text) {
    super(text || REASONS[code] || `reason ${code}`);
    this.code = code;
  }
}

export class WukongClient extends EventTarget {
  #login; #socket = null; #state = "stopped"; #wanted = false; #timer = 0; #pinger = 0; #retryMs = RETRY_MIN_MS;
  #pending = new Map(); // request id -> {method, params, resolve, reject}; in the order of sending
  #session = 0;
  #next = 0;
  #deviceId = crypto.getRandomValues(new Uint32Array(2)).join("-");

  /** login: () => Promise<{url, uid, token}>. If it fails, it is tried again like a lost connection. */
  constructor({ login }) {
    super();
    this.#login = login;
  }

  get state() { return this.#state; }

  start() {
    if (this.#wanted) return;
    this.#wanted = true;
    this.#connect();
  }

  stop(reason = "") {
    this.#wanted = false;
    clearTimeout(this.#timer);
    this.#drop();
    for (const { reject } of this.#pending.values()) reject(new Refused(0, "stopped"));
    this.#pending.clear();
    this.#set("stopped", reason);
  }

  /** Ends the connection as if the network had: it comes back by itself. */
  reconnect() {
    if (this.#wanted) this.#lost("asked for");
  }

  /**
   * content: whatever JSON can hold. clientMsgNo: yours, for a message that an earlier page has tried to send.
   * Resolves to {messageId, messageSeq} when a majority of the nodes has it on disk; rejects with Refused. Waits through
   * reconnects, and keeps the order of calls.
   */
  send(channelId, channelType, content, { clientMsgNo = WukongClient.newNumber() } = {}) {
    if (!this.#wanted) return Promise.reject(new Refused(0, "stopped"));
    if (this.#pending.size >= PENDING_LIMIT_COUNT) return Promise.reject(new Refused(0, "too many messages wait"));
    const params = {
      header: { redDot: true }, channelId, channelType, clientMsgNo, payload: encode(content),
    };
    return new Promise((resolve, reject) => {
      const id = `send-${++this.#next}`;
      this.#pending.set(id, { method: "send", params, resolve, reject });
      if (this.#state === "connected") this.#write({ method: "send", params, id });
    });
  }

  static newNumber() {
    return Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join("");
  }

  // -- connection

  async #connect() {
    const session = ++this.#session; // what an earlier connection still reports is no longer heard
    this.#set("connecting");
    let login;
    try {
      login = await this.#login();
    } catch (error) {
      if (session === this.#session && this.#wanted) this.#lost(error.message);
      return;
    }
    if (session !== this.#session || !this.#wanted) return;
    const socket = this.#socket = new WebSocket(login.url);
    const isOurs = () => session === this.#session;
    this.#timer = setTimeout(() => isOurs() && this.#lost("no answer"), ANSWER_MS);
    socket.onopen = () => isOurs() && this.#write({
      id: "connect", method: "connect",
      params: {
        version: 5, uid: login.uid, token: login.token, deviceFlag: WEB, deviceId: this.#deviceId,
        clientTimestamp: Date.now(),
      },
    });
    socket.onmessage = event => isOurs() && this.#onFrame(JSON.parse(event.data));
    socket.onclose = () => isOurs() && this.#lost("connection closed");
  }

  #lost(reason) {
    this.#drop();
    if (!this.#wanted) return;
    // Between half and all of it, so that many clients do not come back at the same moment.
    const waitMs = this.#retryMs * (0.5 + Math.random() / 2);
    this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MAX_MS);
    this.#timer = setTimeout(() => this.#connect(), waitMs);
    this.#set("waiting", reason);
  }

  #drop() {
    this.#session++;
    clearTimeout(this.#timer);
    clearInterval(this.#pinger);
    this.#socket?.close();
    this.#socket = null;
  }

  #set(state, reason = "") {
    this.#state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, reason } }));
  }

  #write(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ jsonrpc: "2.0", ...message }));
  }

  // -- frames

  #onFrame(frame) {
    if (frame.method === "recv") this.#onRecv(frame.params);
    else if (frame.method === "disconnect") this.#onDisconnect(frame.params);
    else if (frame.id === "connect") this.#onConnected(frame);
    else if (frame.id === "ping") clearTimeout(this.#timer);
    else this.#onAnswer(frame);
  }

  #onConnected({ result, error }) {
    clearTimeout(this.#timer);
    const code = result ? result.reasonCode : error.code;
    if (code !== SUCCESS || error) return this.#lost(REASONS[code] || error?.message || `reason ${code}`);
    this.#retryMs = RETRY_MIN_MS;
    this.#pinger = setInterval(() => {
      this.#timer = setTimeout(() => this.#lost("no answer"), ANSWER_MS);
      this.#write({ method: "ping", id: "ping" });
    }, PING_MS);
    // First what waits, so that it keeps its place before what the application sends from here on.
    for (const [id, { method, params }] of this.#pending) this.#write({ method, params, id });
    this.#set("connected");
  }

  #onDisconnect({ reasonCode, reason }) {
    if (reasonCode === KICKED) this.stop(reason || "logged in elsewhere");
    else this.#lost(reason);
  }

  #onAnswer({ id, result, error }) {
    const waiting = this.#pending.get(id);
    if (!waiting) return;
    this.#pending.delete(id);
    if (error) waiting.reject(new Refused(error.code, error.message));
    else if (result.reasonCode !== SUCCESS) waiting.reject(new Refused(result.reasonCode));
    else waiting.resolve({ messageId: result.messageId, messageSeq: result.messageSeq });
  }

  #onRecv(params) {
    const { messageId, messageSeq, clientMsgNo, channelId, channelType, fromUid, timestamp } = params;
    const message = { messageId, messageSeq, clientMsgNo, channelId, channelType, fromUid, timestamp, content: decode(params.payload) };
    try {
      this.dispatchEvent(new CustomEvent("message", { detail: message }));
    } finally {
      // Unacknowledged messages are pushed again, a few times.
      this.#write({ method: "recvack", params: { messageId, messageSeq } });
    }
  }
}

/** JSON to base64, the form of a payload in JSON-RPC and in the HTTP API. */
export function encode(content) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(JSON.stringify(content))));
}

/** Of a payload that is not JSON, its text. */
export function decode(payload) {
  const text = new TextDecoder().decode(Uint8Array.from(atob(payload), character => character.charCodeAt(0)));
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
