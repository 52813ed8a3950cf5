// Registers functions whose schemas zod makes, with examples of their values. The worker
// connects to the engine at $III_URL, prints "ready" and serves until its standard input
// ends.
import { registerWorker } from 'iii-sdk'
import { z } from 'zod'

const iii = registerWorker(process.env.III_URL, { workerName: 'zod', otel: { enabled: false } })

function register(name, construct, schema, ...examples) {
  const id = `zod::${name}`
  const metadata = { construct, examples: examples.map((e) => z.encode ? z.encode(schema, schema.parse(e)) : e) }
  iii.registerFunction(id, async (data) => data, {
    description: construct,
    metadata,
    request_format: z.toJSONSchema(schema, { io: 'input' }),
    response_format: z.toJSONSchema(schema, { io: 'output' }),
  })
}

const Address = z.object({ street: z.string(), city: z.string() })
const NamedAddress = Address.meta({ id: 'Address', description: 'Where somebody lives.' })
const home = { street: 'Main St', city: 'Springfield' }

register('scalars', 'string, number, int, boolean, null', z.object({ text: z.string(), ratio: z.number(), count: z.int(), done: z.boolean(), nothing: z.null() }), { text: 'a', ratio: 0.5, count: 1, done: true, nothing: null })
register('optionals', 'optional, nullable, nullish, default', z.object({ optional: z.string().optional(), nullable: z.string().nullable(), nullish: z.number().nullish(), defaulted: z.int().default(3) }), { nullable: null }, { optional: '', nullable: 'x', nullish: 1, defaulted: 4 }, { nullable: 'y', nullish: null })
register('widths', 'int32, uint32, float32', z.object({ i: z.int32(), u: z.uint32(), f: z.float32(), safe: z.int() }), { i: -1, u: 4294967295, f: 0.5, safe: 9007199254740991 })
register('constraints', 'bounds, lengths, patterns', z.object({ age: z.int().nonnegative().max(150), name: z.string().min(1).max(10).regex(/^[a-z]+$/), step: z.number().multipleOf(0.5), positive: z.int().positive() }), { age: 3, name: 'ann', step: 1.5, positive: 1 })
register('enums', 'enums and literals', z.object({ color: z.enum(['red', 'green', 'navy-blue']), native: z.enum({ Low: 1, High: 10 }), literal: z.literal('on'), literals: z.literal(['a', 1, null]), maybe: z.enum(['x', 'y']).nullable().optional() }), { color: 'red', native: 10, literal: 'on', literals: 1, maybe: 'x' }, { color: 'green', native: 1, literal: 'on', literals: null, maybe: null })
register('punctuation', 'enum values without letters', z.object({ op: z.enum(['<', '<=', '>', '==', '', '1', 'Ünïcode', 'a b', 'a_b']) }), { op: '<' }, { op: '' }, { op: 'a_b' })
register('nested', 'objects in objects', z.object({ home: Address, inner: z.object({ deep: z.object({ value: z.string() }) }) }), { home, inner: { deep: { value: 'v' } } })
register('shared', '$ref to a definition with an id', z.object({ home: NamedAddress, work: NamedAddress.optional(), other: NamedAddress.nullable() }), { home, other: null }, { home, work: home, other: home })
register('arrays', 'arrays of arrays and objects', z.object({ names: z.array(z.string()), matrix: z.array(z.array(z.number())), list: z.array(Address).min(1), optional: z.array(z.int()).optional(), nullable: z.array(z.string()).nullable() }), { names: [], matrix: [[1, 2.5], []], list: [home], nullable: null }, { names: ['a'], matrix: [], list: [home], optional: [], nullable: [] })
register('records', 'additionalProperties of a type, propertyNames', z.object({ counts: z.record(z.string(), z.int()), addresses: z.record(z.string(), Address), partial: z.partialRecord(z.enum(['a', 'b']), z.boolean()), nested: z.record(z.string(), z.record(z.string(), z.array(z.string()))) }), { counts: { a: 1 }, addresses: { h: home }, partial: { a: true }, nested: { x: { y: ['z'] } } })
register('formats', 'formats of strings', z.object({ at: z.iso.datetime(), day: z.iso.date(), hour: z.iso.time(), took: z.iso.duration(), id: z.uuid(), mail: z.email(), url: z.url(), ip: z.ipv4(), data: z.base64() }), { at: '2026-05-04T12:30:00Z', day: '2026-05-04', hour: '01:02:03', took: 'PT90S', id: '11111111-1111-4111-8111-111111111111', mail: 'a@example.com', url: 'https://example.com', ip: '127.0.0.1', data: 'aGVsbG8=' })
const Tree = z.object({ value: z.number(), get children() { return z.array(Tree) } })
register('tree', 'recursive type by "#"', Tree, { value: 1, children: [{ value: 2, children: [] }] })
const User = z.object({ name: z.string(), get posts() { return z.array(Post) } })
const Post = z.object({ title: z.string(), get author() { return User.optional() } })
register('mutual', 'mutually recursive types', z.object({ user: User, lead: Post.optional() }), { user: { name: 'a', posts: [{ title: 't', author: { name: 'b', posts: [] } }] } })
const Node = z.object({ value: z.int(), get next() { return Node.nullable() } })
register('linked', 'recursive type, nullable', z.object({ head: Node }), { head: { value: 1, next: { value: 2, next: null } } })
const Shape = z.discriminatedUnion('kind', [z.object({ kind: z.literal('circle'), radius: z.number() }), z.object({ kind: z.literal('square'), side: z.number() }), z.object({ kind: z.literal('empty') })])
register('shape', 'oneOf with a tag at the root', Shape, { kind: 'circle', radius: 1.5 }, { kind: 'empty' })
register('shapes', 'oneOf with a tag in an array', z.object({ shapes: z.array(Shape), first: Shape.nullable() }), { shapes: [{ kind: 'square', side: 2 }], first: null }, { shapes: [], first: { kind: 'circle', radius: 0 } })
register('outcome', 'oneOf with booleans as tags', z.discriminatedUnion('success', [z.object({ success: z.literal(true), data: z.string() }), z.object({ success: z.literal(false), error: z.object({ code: z.int(), message: z.string() }) })]), { success: true, data: 'd' }, { success: false, error: { code: 1, message: 'm' } })
register('unions', 'anyOf without a tag', z.object({ id: z.union([z.int(), z.string()]), body: z.union([z.string(), z.array(z.string()), Address]), flag: z.union([z.boolean(), z.literal('auto')]) }), { id: 1, body: 'b', flag: true }, { id: 'x', body: ['b'], flag: 'auto' }, { id: 2, body: home, flag: false })
register('intersection', 'allOf of objects', z.intersection(z.object({ id: z.string() }), z.object({ name: z.string().optional() })), { id: 'a', name: 'n' }, { id: 'b' })
register('intersected', 'allOf of an object and a union', z.object({ value: z.intersection(z.object({ id: z.string() }), z.discriminatedUnion('t', [z.object({ t: z.literal('a'), a: z.int() }), z.object({ t: z.literal('b'), b: z.string() })])) }), { value: { id: 'i', t: 'a', a: 1 } }, { value: { id: 'i', t: 'b', b: 'x' } })
register('loose', 'additionalProperties: {}', z.looseObject({ id: z.string() }), { id: 'a', more: [1] }, { id: 'b' })
register('catchall', 'additionalProperties of a type beside properties', z.object({ id: z.string() }).catchall(z.number()), { id: 'a', more: 1.5 })
register('strict', 'additionalProperties: false', z.strictObject({ id: z.string() }), { id: 'a' })
register('tuples', 'prefixItems, with rest', z.object({ pair: z.tuple([z.string(), z.int()]), rest: z.tuple([z.boolean()], z.string()), same: z.tuple([z.number(), z.number()]) }), { pair: ['a', 1], rest: [true, 'x', 'y'], same: [1, 2.5] }, { pair: ['b', 2], rest: [false], same: [0, 0] })
register('names', 'names that are no Go identifiers', z.object({ 'x-dash': z.string(), type: z.string(), '2fa': z.boolean(), $id: z.string(), größe: z.string(), 日本: z.string(), userId: z.string(), user_id: z.string(), URL: z.string() }), { 'x-dash': 'a', type: 't', '2fa': true, $id: 'i', größe: 'L', 日本: 'j', userId: '1', user_id: '2', URL: 'u' })
register('unspeakable', 'names that no struct tag can hold', z.object({ 'a,b': z.string(), 'say "hi"': z.int() }), { 'a,b': 'x', 'say "hi"': 1 })
register('anything', 'any and unknown', z.object({ any: z.any(), unknown: z.unknown(), json: z.json() }), { any: { a: [1] }, unknown: null, json: ['x', { y: 1 }] })
register('described', 'descriptions', z.object({ id: z.string().describe('The id.\nSecond line. */ //go:generate rm') }).describe('What is described.'), { id: 'a' })
register('array', 'array at the root', z.array(Address), [home], [])
register('text', 'scalar at the root', z.string(), 'x')
register('maybe', 'nullable object at the root', Address.nullable(), home, null)
register('status', 'enum at the root', z.enum(['open', 'closed']), 'open')
register('partial', 'all optional', Address.partial(), {}, { city: 'c' })
register('empty', 'object without properties', z.object({}), {})
register('readonly', 'readOnly, brands, defaults', z.object({ list: z.array(z.string()).readonly(), branded: z.string().brand(), set: z.string().default('x') }), { list: ['a'], branded: 'b', set: 'y' })

iii.registerFunction('zod::untyped', async (data) => data, { description: 'no schema' })

console.log('ready')
process.stdin.resume().on('end', () => process.exit(0))
