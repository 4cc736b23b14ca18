// One user of the published JavaScript SDK, driven by lines of JSON on stdin; answers are lines that begin with "@@".
// What an application fills in, the providers, asks the back end (backend.py) as an application's own server is asked.
import { register } from 'node:module'
import { createInterface } from 'node:readline'
import { WebSocket } from 'ws'

register('./hooks.mjs', import.meta.url)
globalThis.WebSocket = WebSocket
const { WKSDK, Channel, Conversation, Message, MessageContentManager } = await import('wukongimjssdk/lib/sdk.js')

const sdk = WKSDK.shared ? WKSDK.shared() : WKSDK.default.shared()
const manager = sdk.connectManager
const say = (event) => console.log('@@' + JSON.stringify(event))

const shown = (message) => ({
  from: message.fromUID,
  channel: message.channel.channelID,
  type: message.channel.channelType,
  seq: message.messageSeq,
  id: message.messageID.toString(),
  number: message.clientMsgNo,
  reddot: message.header.reddot,
  text: message.content?.text ?? null,
})

manager.addConnectStatusListener((status, reason) => say({ event: 'status', status, reason }))
sdk.chatManager.addMessageListener((message) => {
  // The SDK tells its own sends to the same listener, before they have a place in the channel.
  if (message.send && !message.messageSeq) return
  say({ event: 'message', ...shown(message) })
})
sdk.chatManager.addCMDListener((message) =>
  say({ event: 'cmd', from: message.fromUID, channel: message.channel.channelID, cmd: message.content?.cmd ?? null }))
sdk.chatManager.addMessageStatusListener((ack) =>
  say({ event: 'sendack', clientSeq: ack.clientSeq, seq: ack.messageSeq, id: ack.messageID.toString(), reason: ack.reasonCode }))

const ping = manager.sendPing.bind(manager)
manager.sendPing = () => {
  say({ event: 'ping', unanswered: manager.pingRetryCount })
  ping()
}

let backend = ''
const ask = async (path, body) => {
  const answer = await fetch(backend + path, {
    method: 'POST',
    headers: { token: sdk.config.token },
    body: JSON.stringify(body),
  })
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`)
  return answer.json()
}

const messageOf = (row, channel) => {
  const message = new Message()
  message.header.reddot = row.header.red_dot === 1
  message.messageID = row.message_idstr
  message.messageSeq = row.message_seq
  message.clientMsgNo = row.client_msg_no
  message.fromUID = row.from_uid
  message.channel = channel
  message.timestamp = row.timestamp
  message.content = MessageContentManager.shared().getMessageContent(row.payload.type)
  message.content.decode(new TextEncoder().encode(JSON.stringify(row.payload)))
  return message
}

const provider = sdk.config.provider
provider.connectAddrCallback = async (use) => {
  // An application that cannot ask its back end tries the address that it has.
  const found = await ask('/address', {}).catch(() => ({ ws_addr: sdk.config.addr }))
  sdk.config.addr = found.ws_addr
  use(found.ws_addr)
}
provider.syncConversationsCallback = async ({ count }) => {
  const rows = await ask('/conversations', { msg_count: count })
  return rows.map((row) => {
    const conversation = new Conversation()
    conversation.channel = new Channel(row.channel_id, row.channel_type)
    conversation.unread = row.unread
    conversation.timestamp = row.timestamp
    conversation.lastMessage = messageOf(row.recents[0], conversation.channel)
    return conversation
  })
}
provider.syncMessagesCallback = async (channel, options) => {
  const page = await ask('/messages', {
    channel_id: channel.channelID,
    channel_type: channel.channelType,
    start_message_seq: options.startMessageSeq,
    end_message_seq: options.endMessageSeq,
    limit: options.limit,
    pull_mode: options.pullMode,
  })
  return page.messages.map((row) => messageOf(row, channel))
}
provider.syncRemindersCallback = async () => []

const commands = {
  connect({ uid, token, backend: url, heartbeat }) {
    backend = url
    sdk.config.uid = uid
    sdk.config.token = token
    sdk.config.heartbeatInterval = heartbeat
    sdk.connect()
  },
  disconnect: () => sdk.disconnect(),
  send: ({ channel, type, text }) => sdk.chatManager.send(sdk.newMessageText(text), sdk.newChannel(channel, type)),
  async conversations({ count }) {
    await sdk.conversationManager.sync({ count })
    const rows = sdk.conversationManager.conversations.map((each) => ({
      channel: each.channel.channelID,
      type: each.channel.channelType,
      unread: each.unread,
      last: shown(each.lastMessage),
    }))
    say({ event: 'conversations', rows })
  },
  async history({ channel, type, start, end, limit, newer }) {
    const options = { startMessageSeq: start, endMessageSeq: end, limit, pullMode: newer ? 1 : 0 }
    const messages = await sdk.chatManager.syncMessages(new Channel(channel, type), options)
    say({ event: 'history', rows: messages.map(shown) })
  },
  state: () => say({ event: 'state', status: manager.status, comesAgain: manager.needReconnect, waits: manager.lockReconnect }),
}

createInterface({ input: process.stdin }).on('line', async (line) => {
  const command = JSON.parse(line)
  try {
    await commands[command.do](command)
  } catch (error) {
    say({ event: 'error', text: String(error) })
  }
})
say({ event: 'ready' })
