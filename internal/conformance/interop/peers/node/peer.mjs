// The peer on the official SDK for Node. INTEROP_PEER configures it, and calls to peer::do
// control it. The peer for Go is the reference.
import { createHash } from 'node:crypto'
import { InvocationError, registerWorker, TriggerAction } from 'iii-sdk'
import { createChannel, createStream } from 'iii-sdk/helpers'
import { http } from '@iii-dev/helpers/http'
import { Logger, withSpan } from '@iii-dev/helpers/observability'
import { getMeter } from '@iii-dev/helpers/observability/internal'

const config = JSON.parse(process.env.INTEROP_PEER)
const iii = registerWorker(config.url, {
  workerName: config.name,
  workerDescription: 'a peer',
  headers: config.headers ?? undefined,
  otel: { serviceName: config.name, metricsExportIntervalMs: 200 },
})
const logger = new Logger()
const functions = new Map()
const triggers = new Map()
const bindings = new Map()

const call = (function_id, payload, more) => iii.trigger({ function_id, payload, ...more })
const tell = (function_id, payload, metadata) => call('go::seen', { function_id, payload, metadata })
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const plain = ({ _caller_worker_id, ...rest }) => rest

// drain reads a channel to its end: text messages, then bytes.
async function drain(reader) {
  const texts = []
  reader.onMessage((m) => texts.push(JSON.parse(m)))
  const bytes = await reader.readAll()
  return { texts, bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') }
}

// fill writes a text message and n bytes to a channel.
async function fill(writer, n) {
  const bytes = Buffer.alloc(n)
  for (let i = 0; i < n; i++) bytes[i] = (i * 31 + (i >> 8) * 7) & 0xff
  writer.sendMessage(JSON.stringify({ hello: 'channel' }))
  await new Promise((resolve, reject) => {
    writer.stream.on('error', reject)
    writer.stream.end(bytes, resolve)
  })
  writer.close()
  return true
}

const steps = {
  async call(s) {
    const more = {}
    if ('metadata' in s) more.metadata = s.metadata
    if ('timeout_ms' in s) more.timeoutMs = s.timeout_ms
    if (s.action?.type === 'void') more.action = TriggerAction.Void()
    if (s.action?.type === 'enqueue') more.action = TriggerAction.Enqueue({ queue: s.action.queue })
    return call(s.function_id, s.payload, more)
  },
  async listen(s) {
    let failures = s.failures
    functions.set(s.function_id, iii.registerFunction(s.function_id, async (payload, metadata) => {
      await tell(s.function_id, payload, metadata)
      if (failures-- > 0) throw new Error('not yet')
      return s.reply
    }))
  },
  async unregister(s) {
    functions.get(s.function_id).unregister()
  },
  async bind(s) {
    const handle = `t${triggers.size}`
    triggers.set(handle, iii.registerTrigger({ type: s.type, function_id: s.function_id, config: s.config, metadata: s.metadata }))
    return handle
  },
  async unbind(s) {
    triggers.get(s.handle).unregister()
  },
  async provide(s) {
    iii.registerTriggerType({ id: s.type, description: 'rings' }, {
      async registerTrigger(b) {
        if (b.config.refuse) throw new Error('not this one')
        bindings.set(b.id, b)
        await tell('bound', { id: b.id, function_id: b.function_id, config: b.config, metadata: b.metadata })
      },
      async unregisterTrigger({ id }) {
        await tell('unbound', { id })
      },
    })
  },
  async fire(s) {
    const b = bindings.get(s.id)
    return call(b.function_id, s.payload, { metadata: b.metadata })
  },
  async 'http-invoked'(s) {
    iii.registerFunction(s.function_id, {
      url: s.url, method: s.method, headers: { [s.header]: s.value }, auth: { type: 'hmac', secret_key: s.secret },
    })
  },
  async 'channel-in'(s) {
    const channel = await createChannel(iii)
    const called = call(s.function_id, { writer: channel.writerRef, bytes: s.bytes })
    const report = await drain(channel.reader)
    await called
    return report
  },
  async 'channel-out'(s) {
    const channel = await createChannel(iii)
    const written = fill(channel.writer, s.bytes)
    const report = await call(s.function_id, { reader: channel.readerRef })
    await written
    return report
  },
  async 'store-stream'(s) {
    const items = new Map()
    const key = (i) => JSON.stringify([i.group_id, i.item_id])
    const group = (k) => JSON.parse(k)[0]
    createStream(iii, s.name, {
      get: async (i) => items.get(key(i)) ?? null,
      set: async (i) => {
        const old_value = items.get(key(i))
        items.set(key(i), i.data)
        return { old_value, new_value: i.data }
      },
      delete: async (i) => {
        const old_value = items.get(key(i))
        items.delete(key(i))
        return { old_value }
      },
      list: async (i) => [...items].filter(([k]) => group(k) === i.group_id).map(([, v]) => v),
      listGroups: async () => [...new Set([...items.keys()].map(group))],
      update: async () => null,
    })
  },
  async length(s) {
    return (await call(s.function_id, s.payload)).length
  },
  async log(s) {
    logger[s.level](s.message, s.data)
  },
  async count(s) {
    getMeter().createCounter(s.name).add(s.by)
  },
  async guard(s) {
    functions.set(s.function_id, iii.registerFunction(s.function_id, async (input) => {
      if (input.headers[s.header] !== s.token) throw new Error('no entry')
      return { allowed_functions: s.allowed }
    }))
  },
  async shutdown() {
    setTimeout(async () => {
      await iii.shutdown()
      process.exit(0)
    }, 50)
  },
}

iii.registerFunction('peer::do', async ({ step, ...s }) => {
  try {
    if (!steps[step]) throw new Error('this SDK has no ' + step)
    return { value: (await steps[step](s)) ?? null }
  } catch (err) {
    return { error: { code: err instanceof InvocationError ? err.code : 'error', message: String(err?.message ?? err) } }
  }
})
iii.registerFunction('peer::echo', async (payload) => payload)
iii.registerFunction('peer::text', async ({ bytes }) => 'x'.repeat(bytes))
iii.registerFunction('peer::inspect', async (payload, metadata) => ({ payload: plain(payload), metadata: metadata ?? null }))
iii.registerFunction('peer::crash', async () => {
  throw new Error('it broke')
})
iii.registerFunction('peer::fail', async ({ code, message }) => {
  throw new InvocationError({ code, message })
})
iii.registerFunction('peer::slow', async ({ ms }) => {
  await pause(ms)
  return 'late'
})
iii.registerFunction('peer::http', async (r) => ({
  status_code: 201,
  headers: { 'x-answer': 'given' },
  body: { method: r.method, path_params: r.path_params, query_params: r.query_params, body: r.body, header: r.headers['x-test'] },
}))
iii.registerFunction('peer::http-stream', http(async (req, res) => {
  const body = await req.request_body.readAll()
  res.status(202)
  res.headers({ 'content-type': 'text/x-upper' })
  await new Promise((resolve) => res.stream.end(Buffer.from(body.toString('utf8').toUpperCase()), resolve))
  res.close()
}))
iii.registerFunction('peer::sink', async ({ reader }) => drain(reader))
iii.registerFunction('peer::source', async ({ writer, bytes }) => fill(writer, bytes))
iii.registerFunction('peer::traced', async ({ function_id, data }) =>
  withSpan('peer work', {}, async () => {
    logger.info('working', data)
    return call(function_id, {})
  }))

process.on('SIGTERM', () => process.exit(0))
