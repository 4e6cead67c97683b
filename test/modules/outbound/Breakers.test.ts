/** The breakers in front of the upstreams: what counts, what they let through, and how they close again. */
import { afterEach, assert, beforeEach, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Layer, Logger, type Scope, Stream } from "effect"
import { CircuitBreaker } from "effect/persistence"
import { TestClock } from "effect/testing"
import * as Circuits from "../../../src/modules/outbound/Circuits.ts"
import * as OutboundUndici from "../../../src/modules/outbound/OutboundUndici.ts"
import { Breakers } from "../../../src/sdk/Breakers.ts"
import { Outbound, type Upstream, type UpstreamRequest } from "../../../src/sdk/Outbound.ts"
import type { ProviderError } from "../../../src/sdk/Provider.ts"
import { type FakeUpstream, startFakeUpstream } from "../../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../../fixtures/Fault.ts"
import { openAi } from "../../fixtures/OpenAiWire.ts"
import { json } from "../../fixtures/Script.ts"

let far: FakeUpstream

beforeEach(async () => {
  far = await startFakeUpstream()
})
afterEach(() => far.close())

const call: UpstreamRequest = { method: "POST", path: "/v1/chat/completions", body: "{}" }
const opening = 60

type Kit = Upstream & Breakers["Service"]

/** An upstream at the fake, whose breaker opens for 60 ms. */
const withUpstream = <A, E>(
  use: (kit: Kit) => Effect.Effect<A, E, Scope.Scope>,
  options: OutboundUndici.Options = {},
  baseUrl = far.url
): Promise<A> =>
  Effect.gen(function*() {
    const outbound = yield* Outbound
    const upstream = yield* outbound.upstream({
      provider: "far",
      baseUrl,
      retryAfter: (headers) => headers["retry-after"] === undefined ? undefined : Number(headers["retry-after"]) * 1000
    })
    return yield* use({ ...upstream, ...(yield* Breakers) })
  }).pipe(
    Effect.scoped,
    Effect.provide(
      Layer.merge(OutboundUndici.layerWith({ breaker: { open: opening, maxOpen: 1000 }, ...options }), Logger.layer([]))
    ),
    Effect.runPromise
  )

const failing = (status = 500) => json({ error: { message: "no" } }, { status })
const ok = openAi.answer({ text: "yes" })

const times = <A, E, R>(count: number, self: Effect.Effect<A, E, R>) =>
  Effect.forEach(Array.from({ length: count }), () => Effect.exit(self))

const stateOf = (kit: Kit) => Effect.map(kit.states, (states) => states[0])

const readAll = (upstream: Upstream, request: UpstreamRequest) =>
  Effect.scoped(Effect.flatMap(upstream.stream(request), ({ body }) => Stream.runDrain(body)))

const ways: ReadonlyArray<
  readonly [string, (kit: Upstream, request?: UpstreamRequest) => Effect.Effect<unknown, ProviderError>]
> = [
  ["whole", (kit, request = call) => kit.request(request)],
  ["streamed", (kit, request = call) => readAll(kit, request)]
]

describe.each(ways)("%s answers", (_, send) => {
  it("that are errors of the upstream's own open the breaker, and it is called no more", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        far.always(failing())
        yield* times(5, send(kit))
        const error = yield* Effect.flip(send(kit))
        assert.strictEqual(error.kind, "transient")
        assert.strictEqual(error.code, "circuit_open")
        assert.strictEqual(error.breaker, "open")
        assert.isAbove(error.retryAfterMs ?? 0, 0)
        assert.isAtMost(error.retryAfterMs ?? Infinity, 10_000)
        assert.include(error.message, "tried again in")
        yield* times(50, send(kit))
        assert.lengthOf(far.requests, 5)
        const state = yield* stateOf(kit)
        assert.deepInclude(state, { provider: "far", endpoint: "chat", state: "open" })
        assert.isAbove(state?.until ?? 0, yield* Clock.currentTimeMillis)
      }), { breaker: { open: 10_000 } }))

  it("one probe closes it again", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        far.always(failing())
        yield* times(5, send(kit))
        far.always(ok)
        yield* Effect.sleep(opening + 10)
        assert.strictEqual((yield* stateOf(kit))?.state, "half_open")
        yield* send(kit)
        assert.strictEqual((yield* stateOf(kit))?.state, "closed")
        yield* send(kit)
        assert.lengthOf(far.requests, 7)
      })
    ))

  it("while the probe runs nobody else gets through, and a failed one opens it for longer", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        far.always(failing())
        yield* times(5, send(kit))
        const answer = Promise.withResolvers<void>()
        far.always(withFault(failing(), fault.holdHeaders(answer.promise)))
        yield* Effect.sleep(opening + 10)
        const probe = yield* Effect.forkChild(Effect.exit(send(kit)))
        yield* Effect.promise(() => far.waitForRequest(5))
        const error = yield* Effect.flip(send(kit))
        assert.strictEqual(error.breaker, "half_open")
        assert.strictEqual(error.code, "circuit_open")
        answer.resolve()
        yield* Fiber.join(probe)
        assert.lengthOf(far.requests, 6)
        const state = yield* stateOf(kit)
        assert.strictEqual(state?.state, "open")
        assert.isAbove((state?.until ?? 0) - (yield* Clock.currentTimeMillis), opening)
      })
    ))

  it("that refuse the request do not count, limits included", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        for (const status of [400, 401, 403, 404, 408, 422, 429]) {
          far.always(failing(status))
          yield* times(6, send(kit))
        }
        assert.lengthOf(far.requests, 42)
        assert.strictEqual((yield* stateOf(kit))?.state, "closed")
      })
    ))

  it("that their callers leave do not count", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        far.always(withFault(openAi.answer({ text: "yes" }), fault.hang))
        for (let i = 0; i < 30; i++) {
          const fiber = yield* Effect.forkChild(send(kit))
          yield* Effect.promise(() => far.waitForRequest(i))
          yield* Fiber.interrupt(fiber)
        }
        assert.strictEqual((yield* stateOf(kit))?.state, "closed")
        far.always(ok)
        yield* send(kit)
      })
    ))

  it("a probe that its caller leaves makes room for another one", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        far.always(failing())
        yield* times(5, send(kit))
        far.always(withFault(ok, fault.hang))
        yield* Effect.sleep(opening + 10)
        const probe = yield* Effect.forkChild(send(kit))
        yield* Effect.promise(() => far.waitForRequest(5))
        yield* Fiber.interrupt(probe)
        far.always(ok)
        yield* send(kit)
        assert.strictEqual((yield* stateOf(kit))?.state, "closed")
      })
    ))

  it("a forced call goes through, and its success opens the way for others until one fails", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        far.always(failing())
        yield* times(5, send(kit))
        yield* Effect.exit(send(kit, { ...call, force: true }))
        assert.lengthOf(far.requests, 6)
        assert.isTrue(Exit.isFailure(yield* Effect.exit(send(kit))))
        assert.lengthOf(far.requests, 6)
        far.always(ok)
        yield* send(kit, { ...call, force: true })
        yield* send(kit)
        assert.lengthOf(far.requests, 8)
        far.always(failing())
        yield* Effect.exit(send(kit))
        assert.lengthOf(far.requests, 9)
        assert.strictEqual((yield* Effect.flip(send(kit))).breaker, "open")
      }), { breaker: { open: 10_000 } }))

  it("a failure tells that the breaker is open after it, so that nobody retries", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        far.always(withFault(ok, fault.reset))
        const told: Array<string | undefined> = []
        for (let i = 0; i < 7; i++) {
          const { breaker, code } = yield* Effect.flip(send(kit, { ...call, force: i === 6 }))
          told.push(breaker, code)
        }
        const reset = [undefined, "ECONNRESET"]
        assert.deepStrictEqual(told, [
          ...Array.from({ length: 4 }, () => reset).flat(),
          "opened",
          "ECONNRESET",
          "open",
          "circuit_open",
          "opened",
          "ECONNRESET"
        ])
        assert.lengthOf(far.requests, 6)
      }), { breaker: { open: 10_000 } }))

  it("connections that are reset count", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        far.always(withFault(ok, fault.reset))
        yield* times(5, send(kit))
        assert.strictEqual((yield* stateOf(kit))?.state, "open")
      }), { breaker: { open: 10_000 } }))

  it("with the upstream away, hardly any of many requests reach out", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        far.always(failing(503))
        const until = (yield* Clock.currentTimeMillis) + 400
        let sent = 0
        while ((yield* Clock.currentTimeMillis) < until) {
          yield* Effect.exit(send(kit))
          sent++
        }
        assert.isAbove(sent, 50)
        assert.isBelow(far.requests.length, 12)
      })
    ))
})

describe("breakers", () => {
  it("half of the last 20 calls open one, too", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        for (let i = 0; i < 10; i++) {
          far.reply(ok, failing())
        }
        yield* times(20, kit.request(call))
        assert.strictEqual((yield* stateOf(kit))?.state, "open")
      }), { breaker: { open: 10_000 } }))

  it("a stream that breaks after its head counts", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        far.always(withFault(openAi.stream({ text: "One two three" }), fault.cut(2)))
        yield* times(5, readAll(kit, call))
        assert.strictEqual((yield* stateOf(kit))?.state, "open")
        assert.lengthOf(far.requests, 5)
      }), { breaker: { open: 10_000 } }))

  it("a connect timer of the operator's counts, a caller's own shorter one does not", async () => {
    const asked = (kit: Upstream, connectTimeout: number) => times(6, kit.request({ ...call, connectTimeout }))
    // TLS with a server that waits for HTTP never stands.
    const { createServer } = await import("node:net")
    const silent = createServer(() => {})
    await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve))
    const address = silent.address()
    const url = `https://127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}`
    await withUpstream(
      (kit) =>
        Effect.gen(function*() {
          yield* asked(kit, 5)
          assert.strictEqual((yield* stateOf(kit))?.state, "closed")
          yield* asked(kit, 20)
          assert.strictEqual((yield* stateOf(kit))?.state, "open")
        }),
      { breaker: { open: 10_000 }, connectTimeout: 20 },
      url
    )
    silent.close()
  })

  it("a refused connection counts, and the models have a breaker of their own", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        yield* Effect.promise(() => far.close())
        yield* times(5, kit.request(call))
        assert.strictEqual((yield* Effect.flip(kit.request(call))).breaker, "open")
        const models = yield* Effect.flip(kit.request({ method: "GET", path: "/v1/models" }))
        assert.isUndefined(models.breaker)
        assert.deepStrictEqual(
          (yield* kit.states).map(({ endpoint, state }) => [endpoint, state]),
          [["chat", "open"], ["models", "closed"]]
        )
      }), { breaker: { open: 10_000 } }))

  it("an answer tells, too, that the breaker is open after it", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        far.always(failing(503))
        const told: Array<string | undefined> = []
        for (let i = 0; i < 5; i++) {
          const answer = i % 2 === 0 ? yield* kit.request(call) : yield* Effect.scoped(kit.stream(call))
          told.push(answer.breaker)
        }
        assert.deepStrictEqual(told, [undefined, undefined, undefined, undefined, "opened"])
        assert.strictEqual((yield* Effect.scoped(kit.stream({ ...call, force: true }))).breaker, "opened")
      }), { breaker: { open: 10_000 } }))

  it("what the pipeline reports counts", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        yield* times(5, kit.report("far", "chat", "failure"))
        assert.strictEqual((yield* stateOf(kit))?.state, "open")
        assert.strictEqual((yield* Effect.flip(kit.request(call))).breaker, "open")
        assert.lengthOf(far.requests, 0)
      }), { breaker: { open: 10_000 } }))

  it("the upstream's own wish makes an opening longer", () =>
    withUpstream((kit) =>
      Effect.gen(function*() {
        far.always(json({}, { status: 503, headers: { "retry-after": "20" } }))
        yield* times(5, kit.request(call))
        const { retryAfterMs = 0 } = yield* Effect.flip(kit.request(call))
        assert.isAbove(retryAfterMs, 15_000)
        assert.isAtMost(retryAfterMs, 20_000)
      }), { breaker: { maxOpen: 30_000 } }))
})

describe("openings", () => {
  it.effect("last twice as long each time, up to the limit", () =>
    Effect.gen(function*() {
      const circuits = yield* Circuits.make({ failures: 1, open: 1000, maxOpen: 5000 })
      const circuit = circuits.get("far", "chat")
      const lasted: Array<number> = []
      for (let i = 0; i < 5; i++) {
        yield* Effect.scoped(Effect.flatMap(circuit.admit(false), (permit) => permit.settle("Failure")))
        const error = yield* Effect.flip(Effect.scoped(circuit.admit(false)))
        lasted.push(error.retryAfterMs ?? 0)
        yield* TestClock.adjust(error.retryAfterMs ?? 0)
      }
      assert.deepStrictEqual(lasted, [1000, 2000, 4000, 5000, 5000])
    }).pipe(Effect.provide(CircuitBreaker.layerStoreMemory())))

  it.effect("a late failure neither prolongs one nor takes the probe's place", () =>
    Effect.gen(function*() {
      const circuits = yield* Circuits.make({ failures: 1, open: 1000 })
      const circuit = circuits.get("far", "chat")
      yield* circuit.fail
      yield* TestClock.adjust(500)
      yield* circuit.fail
      assert.strictEqual((yield* circuit.state).until, 1000)
      yield* TestClock.adjust(500)
      yield* circuit.fail
      assert.strictEqual((yield* circuit.state).state, "half_open")
      const { probe } = yield* circuit.admit(false)
      assert.isTrue(probe)
    }).pipe(Effect.scoped, Effect.provide(CircuitBreaker.layerStoreMemory())))

  it.effect("are apart for each provider", () =>
    Effect.gen(function*() {
      const circuits = yield* Circuits.make({ failures: 1 })
      yield* circuits.get("a", "chat").fail
      yield* circuits.get("b", "chat").admit(false)
      assert.deepStrictEqual((yield* circuits.states).map(({ state }) => state), ["open", "closed"])
    }).pipe(Effect.scoped, Effect.provide(Layer.fresh(CircuitBreaker.layerStoreMemory()))))
})
