/** The page: two windows, each a user of its own with a connection of its own. */
import { GROUP, PERSON, Refused, WukongClient, decode } from "./wukong-client.js";
import { otherLanguage, text, translate } from "./text.js";

const PREFIX = "demo-";
const PAGE_COUNT = 30;
const CATCH_UP_COUNT = 100;
const CATCH_UP_RETRY_MS = 2_000;

const short = uid => uid.startsWith(PREFIX) ? uid.slice(PREFIX.length) : uid;
const long = name => name.startsWith(PREFIX) ? name : PREFIX + name;
const names = list => list.split(/[\s,，]+/).filter(Boolean).map(long);

async function ask(route, body) {
  const response = await fetch(route, {
    method: "POST", headers: { "Content-Type": "application/json", "X-Wukong-Demo": "1" }, body: JSON.stringify(body),
    signal: AbortSignal.timeout(10_000),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.msg);
  return answer;
}

/** What a conversation is to this window. messages: seq -> message; outgoing: those without a seq yet. newest: the highest seq
 *  up to which nothing is missing; 0 while no history was asked for. */
class Chat {
  constructor(id, type) {
    Object.assign(this, { id, type, unread: 0, last: "", messages: new Map(), outgoing: [], newest: 0, hasOlder: false, loaded: false });
  }
  get title() { return short(this.id) + (this.type === GROUP ? ` (${text("group")})` : ""); }
}

class Window {
  constructor(name) {
    const part = document.querySelector("template").content.cloneNode(true);
    this.root = part.querySelector(".window");
    document.querySelector("main").append(part);
    this.chats = new Map();
    this.open = null;
    this.client = null;
    this.$ = selector => this.root.querySelector(selector);
    this.$(".login input").value = name;
    this.root.setAttribute("aria-label", name);
    this.on(".login", form => this.logIn(form.name.value));
    this.on(".person", form => this.show(this.chat(long(form.name.value), PERSON)), true);
    this.on(".group", form => this.createGroup(long(form.name.value), names(form.members.value)), true);
    this.on(".add", form => this.addMember(long(form.name.value)), true);
    this.on(".send", form => this.send(form.text.value), true);
    this.$(".logout").onclick = () => this.logOut();
    this.$(".older").onclick = () => this.guard(() => this.loadOlder());
  }

  on(selector, action, clears = false) {
    this.$(selector).onsubmit = event => {
      event.preventDefault();
      const form = event.target.elements;
      this.guard(async () => { await action(form); });
      if (clears) event.target.reset();
    };
  }

  async guard(action) {
    this.problem("");
    try { await action(); } catch (error) { this.problem(error.message); }
  }

  problem(words) {
    this.$(".problem").textContent = words;
    this.$(".problem").hidden = !words;
  }

  // -- login

  async logIn(name) {
    this.uid = long(name);
    await this.login();
    this.client = new WukongClient({ login: () => this.login() });
    const client = this.client;
    client.addEventListener("state", ({ detail }) => client === this.client && this.onState(detail));
    client.addEventListener("message", ({ detail }) => client === this.client && this.onMessage(detail));
    this.$(".login").hidden = true;
    this.$(".room").hidden = false;
    this.$(".me").textContent = short(this.uid);
    this.root.setAttribute("aria-label", short(this.uid));
    client.start();
  }

  async login() {
    const { token, addresses } = await ask("session", { uid: this.uid });
    this.asker = { uid: this.uid, token };
    const url = location.protocol === "https:" ? addresses.find(each => each.startsWith("wss:")) : addresses[0];
    if (!url) throw new Error("no wss address");
    return { url, uid: this.uid, token };
  }

  logOut() {
    this.client.stop();
    this.client = this.open = null;
    this.chats.clear();
    this.draw();
    this.$(".login").hidden = false;
    this.$(".room").hidden = true;
    this.$(".login input").focus();
  }

  onState({ state, reason }) {
    this.state = state;
    this.drawState(reason);
    if (state !== "connected") return;
    const client = this.client;
    this.catchUp().catch(error => {
      this.problem(error.message);
      // Without it messages would be missing: from the beginning again, a little later.
      setTimeout(() => client.reconnect(), CATCH_UP_RETRY_MS);
    });
  }

  // -- what the server has

  async catchUp() {
    const found = await ask("conversations", this.asker);
    for (const each of found) {
      const chat = this.chat(each.channel_id, each.channel_type);
      chat.unread = each.unread;
      if (each.recents.length) chat.last = shown(fromApi(each.recents[0]));
      if (chat.loaded) await this.loadNewer(chat);
    }
    if (this.open) await this.markRead(this.open);
    this.draw();
  }

  async loadNewer(chat) {
    for (let more = true; more;) {
      const page = await this.history(chat, { above: chat.newest, limit: CATCH_UP_COUNT });
      for (const each of page.messages) chat.newest = Math.max(chat.newest, each.messageSeq);
      more = page.more && page.messages.length > 0;
    }
  }

  async loadOlder() {
    const chat = this.open;
    const below = Math.min(...chat.messages.keys());
    const page = await this.history(chat, { below: Number.isFinite(below) ? below : 0, limit: PAGE_COUNT });
    chat.hasOlder = page.more && page.messages[0]?.messageSeq > 1;
    this.draw();
  }

  async history(chat, range) {
    const page = await ask("history", { ...this.asker, channel_id: chat.id, channel_type: chat.type, ...range });
    const messages = page.messages.map(fromApi);
    for (const each of messages) this.place(chat, each);
    return { messages, more: page.more };
  }

  async markRead(chat) {
    chat.unread = 0;
    await ask("read", { ...this.asker, channel_id: chat.id, channel_type: chat.type });
  }

  // -- chats

  chat(id, type) {
    const key = `${type}:${id}`;
    if (!this.chats.has(key)) this.chats.set(key, new Chat(id, type));
    return this.chats.get(key);
  }

  async show(chat) {
    this.open = chat;
    this.draw();
    this.$(".send input").focus();
    this.$(".log").setAttribute("aria-busy", "true");
    try { await this.load(chat); } finally { this.$(".log").removeAttribute("aria-busy"); }
    this.draw(true);
  }

  async load(chat) {
    if (!chat.loaded) {
      chat.messages.clear(); // what came by itself may have gaps
      const page = await this.history(chat, { limit: PAGE_COUNT });
      chat.newest = Math.max(0, ...page.messages.map(each => each.messageSeq));
      chat.hasOlder = page.more && page.messages[0]?.messageSeq > 1;
      chat.loaded = true;
      await this.loadNewer(chat); // what came while the page of history was under way
    }
    await this.markRead(chat);
  }

  async createGroup(id, members) {
    await ask("group", { ...this.asker, channel_id: id, members });
    await this.show(this.chat(id, GROUP));
  }

  async addMember(uid) {
    await ask("members", { ...this.asker, channel_id: this.open.id, members: [uid] });
    this.$(".state").textContent = text("added", short(uid));
  }

  // -- messages

  async send(words) {
    const chat = this.open;
    const message = {
      clientMsgNo: WukongClient.newNumber(), fromUid: this.uid, content: { type: 1, content: words }, state: "sending",
      timestamp: Math.floor(Date.now() / 1000),
    };
    chat.outgoing.push(message);
    this.draw(true);
    try {
      const { messageSeq } = await this.client.send(chat.id, chat.type, message.content, { clientMsgNo: message.clientMsgNo });
      this.place(chat, { ...message, messageSeq });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      message.state = "refused";
      message.reason = text(`reason${error.code}`) || error.message;
    }
    this.draw();
  }

  onMessage(message) {
    const chat = this.chat(message.channelId, message.channelType);
    const isNew = !message.messageSeq || !chat.messages.has(message.messageSeq);
    this.place(chat, message);
    if (!isNew || message.fromUid === this.uid) return this.draw();
    if (chat === this.open) this.guard(() => this.markRead(chat));
    else chat.unread++;
    this.draw(chat === this.open);
  }

  /** Into the order of seqs, in the place of the one that was being sent. */
  place(chat, message) {
    chat.outgoing = chat.outgoing.filter(each => each.clientMsgNo !== message.clientMsgNo);
    chat.messages.set(message.messageSeq, { ...message, state: "sent" });
    chat.last = shown(chat.messages.get(Math.max(...chat.messages.keys())));
  }

  // -- drawing

  drawState(reason = "") {
    const shownState = this.$(".state");
    shownState.textContent = text(this.state ?? "stopped") + (reason && this.state === "stopped" ? `: ${reason}` : "");
    shownState.classList.toggle("bad", this.state === "waiting" || this.state === "stopped");
  }

  draw(toEnd = false) {
    const focused = document.activeElement?.dataset?.chat;
    this.$(".chats").replaceChildren(...[...this.chats.entries()].map(([key, chat]) => this.row(key, chat)));
    if (focused) [...this.root.querySelectorAll("[data-chat]")].find(each => each.dataset.chat === focused)?.focus();
    this.$(".chat").hidden = !this.open;
    this.$(".empty").hidden = !!this.open;
    if (!this.open) return;
    this.$("h2").textContent = this.open.title;
    this.$(".add").hidden = this.open.type !== GROUP;
    this.$(".older").hidden = !this.open.hasOlder;
    const ordered = [...this.open.messages.values()].sort((a, b) => a.messageSeq - b.messageSeq);
    const log = this.$(".log");
    const wasAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    this.$("ol").replaceChildren(...[...ordered, ...this.open.outgoing].map(each => this.line(each)));
    if (toEnd || wasAtEnd) log.scrollTop = log.scrollHeight;
  }

  row(key, chat) {
    const button = make("button", "", chat.title);
    button.type = "button";
    button.dataset.chat = key;
    button.onclick = () => this.guard(() => this.show(chat));
    if (chat === this.open) button.setAttribute("aria-current", "true");
    if (chat.unread) {
      const count = make("span", "count", String(chat.unread));
      count.append(make("span", "unseen", text("unread", "")));
      button.append(count);
    }
    if (chat.last) button.title = chat.last;
    const item = make("li", "");
    item.append(button);
    return item;
  }

  line(message) {
    const isOwn = message.fromUid === this.uid;
    const item = make("li", isOwn ? "own" : "");
    const time = new Date(message.timestamp * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const state = isOwn ? ` · ${text(message.state, message.reason)}` : "";
    item.append(shown(message), make("small", message.state === "refused" ? "bad" : "", `${short(message.fromUid)} · ${time}${state}`));
    return item;
  }
}

function fromApi(each) {
  return {
    messageSeq: each.message_seq, clientMsgNo: each.client_msg_no, fromUid: each.from_uid, timestamp: each.timestamp,
    content: decode(each.payload),
  };
}

function shown({ content }) {
  return typeof content === "string" ? content : content?.content ?? JSON.stringify(content);
}

function make(tag, className, words = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.textContent = words;
  return element;
}

/** ?users=alice,bob: who logs in at once. */
const given = (new URLSearchParams(location.search).get("users") ?? "").split(",").filter(Boolean);
const windows = ["alice", "bob"].map((name, place) => new Window(given[place] ?? name));

function speak() {
  translate(document);
  document.title = text("title");
  document.getElementById("language").textContent = text("language");
  for (const each of windows) { each.drawState(); each.draw(); }
}

document.getElementById("language").onclick = () => { otherLanguage(); speak(); };
for (const button of document.querySelectorAll("[data-show]")) {
  button.onclick = () => {
    document.querySelector("main").toggleAttribute("data-right", button.dataset.show === "1");
    for (const each of document.querySelectorAll("[data-show]")) each.setAttribute("aria-pressed", String(each === button));
  };
}
speak();
windows.forEach((each, place) => given[place] && each.guard(() => each.logIn(given[place])));
