/** Several keys for one upstream: refused and limited ones are passed over, and nothing ever shows a key. */
import { afterEach, assert, beforeEach, describe, it } from "@effect/vitest"
import { Effect, type Exit, Layer, Logger, Redacted, type Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { createHash } from "node:crypto"
import * as KeyPool from "../../../src/modules/outbound/KeyPool.ts"
import * as OutboundUndici from "../../../src/modules/outbound/OutboundUndici.ts"
import { Outbound, type Upstream, type UpstreamHead, type UpstreamRequest } from "../../../src/sdk/Outbound.ts"
import type { ProviderError } from "../../../src/sdk/Provider.ts"
import { type FakeUpstream, startFakeUpstream } from "../../fixtures/FakeUpstream.ts"
import { json } from "../../fixtures/Script.ts"

let far: FakeUpstream
const logged: Array<string> = []
const logger = Logger.layer([Logger.make(({ cause, message }) => logged.push(JSON.stringify([message, cause])))])

beforeEach(async () => {
  logged.length = 0
  far = await startFakeUpstream()
})
afterEach(() => far.close())

const call: UpstreamRequest = { method: "POST", path: "/v1/chat/completions", body: "{}" }
const names = ["sk-one-11111111", "sk-two-22222222", "sk-three-33333333"]
const secrets = names.map((name) => Redacted.make(name))

const retryAfter = (headers: UpstreamHead["headers"]) =>
  headers["retry-after"] === undefined ? undefined : Number(headers["retry-after"]) * 1000

const withUpstream = <A, E>(use: (upstream: Upstream) => Effect.Effect<A, E, Scope.Scope>): Promise<A> =>
  Effect.gen(function*() {
    const outbound = yield* Outbound
    const credential = { type: "header", name: "x-api-key", secret: secrets } as const
    return yield* use(yield* outbound.upstream({ provider: "far", baseUrl: far.url, credential, retryAfter }))
  }).pipe(Effect.scoped, Effect.provide(Layer.merge(OutboundUndici.layer, logger)), Effect.runPromise)

/** The upstream answers by the key that it is shown. */
const answers = (byKey: Readonly<Record<string, readonly [status: number, headers?: Record<string, string>]>>) =>
  far.always(({ headers }) => {
    const [status, extra = {}] = byKey[String(headers["x-api-key"])] ?? [200]
    return json({ status }, { status, headers: extra })
  })

const used = () => far.requests.map(({ headers }) => names.indexOf(String(headers["x-api-key"])) + 1)

const noKeyShown = (...things: ReadonlyArray<unknown>) => {
  const text = JSON.stringify([logged, things])
  for (const name of names) assert.notInclude(text, name)
}

const ways: ReadonlyArray<
  readonly [
    string,
    (upstream: Upstream) => Effect.Effect<{ readonly status: number; readonly text: string }, ProviderError>
  ]
> = [
  ["whole", (upstream) => Effect.map(upstream.request(call), ({ body, status }) => ({ status, text: body }))],
  [
    "streamed",
    (upstream) =>
      Effect.scoped(
        Effect.flatMap(upstream.stream(call), ({ body, status }) =>
          Effect.map(Stream.mkString(Stream.decodeText(body)), (text) => ({ status, text })))
      )
  ]
]

describe.each(ways)("%s answers", (_, send) => {
  it("are asked for with one key after the other", () =>
    withUpstream((upstream) =>
      Effect.gen(function*() {
        answers({})
        for (let i = 0; i < 6; i++) yield* send(upstream)
        assert.deepStrictEqual(used(), [1, 2, 3, 1, 2, 3])
      })
    ))

  for (const status of [401, 402]) {
    it(`a key that is answered ${status} is left out and told of once`, () =>
      withUpstream((upstream) =>
        Effect.gen(function*() {
          answers({ [names[1] ?? ""]: [status] })
          for (let i = 0; i < 6; i++) {
            const answer = yield* send(upstream)
            assert.deepStrictEqual(answer, { status: 200, text: "{\"status\":200}" })
          }
          assert.deepStrictEqual(used().filter((key) => key === 2), [2])
          assert.lengthOf(logged, 1)
          assert.include(logged[0], "key 2 of 3")
          assert.include(logged[0], createHash("sha256").update(names[1] ?? "").digest("hex").slice(0, 8))
          noKeyShown()
        })
      ))
  }

  it("a key that is answered 429 rests for as long as the answer says, and the request goes on", () =>
    withUpstream((upstream) =>
      Effect.gen(function*() {
        answers({ [names[0] ?? ""]: [429, { "retry-after": "0.2" }] })
        for (let i = 0; i < 4; i++) assert.strictEqual((yield* send(upstream)).status, 200)
        assert.deepStrictEqual(used(), [1, 2, 3, 2, 3])
        answers({})
        yield* Effect.sleep(220)
        for (let i = 0; i < 3; i++) yield* send(upstream)
        assert.include(used().slice(5), 1)
        assert.lengthOf(logged, 0)
      })
    ))

  it("with all keys refused there is an error that says so, and the upstream is left alone", () =>
    withUpstream((upstream) =>
      Effect.gen(function*() {
        answers(Object.fromEntries(names.map((name) => [name, [401]])))
        for (let i = 0; i < 3; i++) {
          const error = yield* Effect.flip(send(upstream))
          assert.strictEqual(error.kind, "credential")
          assert.strictEqual(error.code, "upstream_credentials_exhausted")
          noKeyShown(error, error.message)
        }
        assert.deepStrictEqual(used(), [1, 2, 3])
        assert.lengthOf(logged, 3)
      })
    ))

  it("with all keys resting or refused the error says how long the shortest rest is", () =>
    withUpstream((upstream) =>
      Effect.gen(function*() {
        answers({
          [names[0] ?? ""]: [429, { "retry-after": "40" }],
          [names[1] ?? ""]: [429, { "retry-after": "20" }],
          [names[2] ?? ""]: [401]
        })
        for (let i = 0; i < 2; i++) {
          const error = yield* Effect.flip(send(upstream))
          assert.strictEqual(error.kind, "quota")
          assert.isAbove(error.retryAfterMs ?? 0, 15_000)
          assert.isAtMost(error.retryAfterMs ?? Infinity, 20_000)
        }
        assert.lengthOf(far.requests, 3)
      })
    ))

  it("a 403 that every key gets is handed on, and takes no key out", () =>
    withUpstream((upstream) =>
      Effect.gen(function*() {
        answers(Object.fromEntries(names.map((name) => [name, [403]])))
        assert.deepStrictEqual(yield* send(upstream), { status: 403, text: "{\"status\":403}" })
        answers({})
        for (let i = 0; i < 3; i++) yield* send(upstream)
        assert.deepStrictEqual(used(), [1, 2, 3, 1, 2, 3])
        assert.lengthOf(logged, 0)
      })
    ))

  it("a 403 that another key does not get takes the key out", () =>
    withUpstream((upstream) =>
      Effect.gen(function*() {
        answers({ [names[0] ?? ""]: [403] })
        for (let i = 0; i < 3; i++) assert.strictEqual((yield* send(upstream)).status, 200)
        assert.deepStrictEqual(used(), [1, 2, 3, 2])
        assert.lengthOf(logged, 1)
        assert.include(logged[0], "key 1 of 3")
      })
    ))

  it("other answers are handed on at once", () =>
    withUpstream((upstream) =>
      Effect.gen(function*() {
        for (const status of [400, 404, 500]) {
          far.always(json({ status }, { status }))
          assert.strictEqual((yield* send(upstream)).status, status)
        }
        assert.lengthOf(far.requests, 3)
      })
    ))
})

describe("rests", () => {
  /** A pool whose upstream answers from a list, with the key's number where the list is at its end. */
  const kit = () => {
    const pool = KeyPool.make("far", secrets, retryAfter)
    let next: Array<UpstreamHead> = []
    const seen: Array<number> = []
    return {
      seen,
      script: (...heads: Array<UpstreamHead>) => {
        next = heads
      },
      send: Effect.exit(pool.send({
        send: (secret) =>
          Effect.sync(() => {
            seen.push(names.indexOf(Redacted.value(secret)) + 1)
            return next.shift() ?? { status: 200, headers: {} }
          }),
        discard: () => {}
      }))
    }
  }
  const head = (status: number, wait?: number): UpstreamHead => ({
    status,
    headers: wait === undefined ? {} : { "retry-after": String(wait) }
  })

  it.effect("a refused key is tried again after ten minutes, and told of once", () =>
    Effect.gen(function*() {
      const { script, seen, send } = kit()
      script(head(401))
      yield* send
      assert.deepStrictEqual(seen, [1, 2])
      yield* TestClock.adjust("599 seconds")
      for (let i = 0; i < 3; i++) yield* send
      assert.deepStrictEqual(seen.splice(0), [1, 2, 3, 2, 3])
      yield* TestClock.adjust("1 second")
      script(head(401))
      yield* send
      assert.deepStrictEqual(seen.splice(0), [1, 2])
      assert.lengthOf(logged, 1)
      yield* TestClock.adjust("10 minutes")
      for (let i = 0; i < 6; i++) yield* send
      assert.deepStrictEqual(seen, [3, 1, 2, 3, 1, 2])
    }).pipe(Effect.provide(logger)))

  it.effect("a limit that says nothing is thirty seconds, and a longer rest stays", () =>
    Effect.gen(function*() {
      const { script, seen, send } = kit()
      script(head(429), head(429, 60), head(429, 90))
      const exit: Exit.Exit<UpstreamHead, ProviderError> = yield* send
      assert.include(JSON.stringify(exit), "\"retryAfterMs\":30000")
      yield* TestClock.adjust("29999 millis")
      assert.include(JSON.stringify(yield* send), "\"retryAfterMs\":1")
      assert.lengthOf(seen, 3)
      yield* TestClock.adjust("1 millis")
      yield* send
      yield* send
      assert.deepStrictEqual(seen, [1, 2, 3, 1, 1])
    }))
})
