// One user of the published JavaScript SDK, driven by lines of JSON on stdin; answers are lines that begin with "@@".
import { register } from 'node:module'
import { createInterface } from 'node:readline'
import { WebSocket } from 'ws'

register('./hooks.mjs', import.meta.url)
globalThis.WebSocket = WebSocket
const { WKSDK, ConnectStatus } = await import('wukongimjssdk/lib/sdk.js')

const sdk = WKSDK.shared ? WKSDK.shared() : WKSDK.default.shared()
const say = (event) => console.log('@@' + JSON.stringify(event))

sdk.connectManager.addConnectStatusListener((status, reason) => say({ event: 'status', status, reason }))
sdk.chatManager.addMessageListener((message) => {
  if (message.send && !message.messageSeq) return
  say({
    event: 'message',
    from: message.fromUID,
    channel: message.channel.channelID,
    type: message.channel.channelType,
    seq: message.messageSeq,
    text: message.content?.text ?? message.content?.contentObj ?? null,
  })
})
sdk.chatManager.addCMDListener((message) =>
  say({ event: 'cmd', from: message.fromUID, channel: message.channel.channelID, cmd: message.content?.cmd ?? null }))
sdk.chatManager.addMessageStatusListener((ack) =>
  say({ event: 'sendack', clientSeq: ack.clientSeq, seq: ack.messageSeq, reason: ack.reasonCode }))

const commands = {
  connect({ addr, uid, token }) {
    sdk.config.addr = addr
    sdk.config.uid = uid
    sdk.config.token = token
    sdk.connect()
  },
  disconnect: () => sdk.disconnect(),
  send({ channel, type, text }) {
    sdk.chatManager.send(sdk.newMessageText(text), sdk.newChannel(channel, type))
  },
  exit: () => process.exit(0),
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line)
  try {
    commands[command.do](command)
  } catch (error) {
    say({ event: 'error', text: String(error) })
  }
})
say({ event: 'ready', statuses: ConnectStatus })
