const EN = {
  title: "Wukong chat demo", windows: "Windows", left: "Left", right: "Right", language: "中文",
  note: "For trying only: whoever opens this page can be any demo user. It touches only users and groups whose names begin with demo- .",
  terminal: "Join from a terminal:", name: "Your name", login: "Log in", logout: "Log out", chats: "Chats", chatWith: "Chat with", open: "Open",
  groupName: "Group name", members: "Members", create: "Create group", addMember: "Add a member", add: "Add", messages: "Messages",
  older: "Older messages", message: "Message", send: "Send", choose: "Open a chat, or create a group.",
  connecting: "connecting …", connected: "connected", waiting: "connection lost; reconnecting …", stopped: "not connected",
  sending: "sending …", sent: "sent", refused: "not sent: {0}", unread: "{0} unread", group: "group", added: "added: {0}",
};
const ZH = {
  title: "Wukong 聊天演示", windows: "窗口", left: "左", right: "右", language: "English",
  note: "仅供试用：打开此页面的人可以是任何演示用户。它只涉及名称以 demo- 开头的用户和群。",
  terminal: "从终端加入：", name: "你的名字", login: "登录", logout: "退出", chats: "会话", chatWith: "聊天对象", open: "打开",
  groupName: "群名", members: "成员", create: "建群", addMember: "添加成员", add: "添加", messages: "消息",
  older: "更早的消息", message: "消息", send: "发送", choose: "请打开会话或建群。",
  connecting: "连接中…", connected: "已连接", waiting: "连接断开，正在重连…", stopped: "未连接",
  sending: "发送中…", sent: "已发送", refused: "未发送：{0}", unread: "{0} 条未读", group: "群", added: "已添加：{0}",
  reason3: "不是该群成员", reason4: "在黑名单中", reason13: "不在白名单中", reason15: "服务器出错，请重试", reason19: "已被封禁",
  reason24: "群已解散", reason25: "禁止发言",
};

let table = navigator.language.startsWith("zh") ? ZH : EN;

/** The text of the page's language, with {0} and so on filled in; "" for a key there is none of. */
export function text(key, ...values) {
  return (table[key] ?? "").replace(/\{(\d)\}/g, (_, place) => values[place]);
}

export function otherLanguage() { table = table === EN ? ZH : EN; }

/** Fills what has data-text or data-label below root. */
export function translate(root) {
  document.documentElement.lang = table === EN ? "en" : "zh-CN";
  for (const each of root.querySelectorAll("[data-text]")) each.textContent = text(each.dataset.text);
  for (const each of root.querySelectorAll("[data-label]")) each.setAttribute("aria-label", text(each.dataset.label));
}
