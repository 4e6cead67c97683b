/** The audit trail: every sink gets every event in order, cleaned, and no emitter ever waits or fails. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Latch, Layer, Logger, Scope } from "effect"
import { TestClock } from "effect/testing"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import * as Audit from "../../src/gateway/Audit.ts"
import { type AuditEvent, type AuditSink, AuditSinkRegistry, AuditTrail } from "../../src/sdk/AuditSink.ts"
import { SinkError } from "../../src/sdk/UsageSink.ts"

const recorder = (name: string) => {
  const events: Array<AuditEvent> = []
  const gate = Latch.makeUnsafe(true)
  const state: { failing: boolean } = { failing: false }
  const sink: AuditSink = {
    name,
    write: (batch) =>
      Effect.andThen(
        gate.await,
        Effect.suspend(() => {
          if (state.failing) return Effect.fail(new SinkError({ sink: name, message: "no" }))
          events.push(...batch)
          return Effect.void
        })
      )
  }
  return { events, gate, sink, state }
}

const event = (number: number, more: Partial<AuditEvent> = {}): AuditEvent => ({
  type: "request_started",
  at: number,
  details: {},
  ...more
})

const trailOver = (options: Audit.AuditOptions = {}) =>
  Layer.provideMerge(Audit.layerWith(options), AuditSinkRegistry.layer)

/** Registers a sink, for as long as the scope lives that it gives. */
const register = (sink: AuditSink) =>
  Effect.gen(function*() {
    const registry = yield* AuditSinkRegistry
    const scope = yield* Scope.make()
    yield* Scope.provide(registry.register(sink), scope)
    return scope
  })

const flush = Effect.flatMap(Audit.AuditQueues, (queues) => queues.flush)
const numbers = (events: ReadonlyArray<AuditEvent>) => events.map(({ at }) => at)

describe("sinks", () => {
  it.effect("all get every event in order, each at its own pace", () =>
    Effect.gen(function*() {
      const [fast, slow, broken] = [recorder("fast"), recorder("slow"), recorder("broken")]
      const trail = yield* AuditTrail
      assert.isFalse(trail.isActive())
      trail.emit(event(0))
      for (const { sink } of [fast, slow, broken]) yield* register(sink)
      assert.isTrue(trail.isActive())
      slow.gate.closeUnsafe()
      broken.state.failing = true
      for (let number = 1; number <= 5; number++) trail.emit(event(number))
      const flushing = yield* Effect.forkChild(flush)
      yield* TestClock.adjust(10)
      assert.deepStrictEqual(numbers(fast.events), [1, 2, 3, 4, 5])
      assert.deepStrictEqual(slow.events, [])
      const { stats } = yield* Audit.AuditQueues
      assert.deepStrictEqual(stats().map(({ sink, stats }) => [sink, stats.queued]), [
        ["fast", 0],
        ["slow", 5],
        ["broken", 5]
      ])
      slow.gate.openUnsafe()
      broken.state.failing = false
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(flushing)
      assert.deepStrictEqual(numbers(slow.events), [1, 2, 3, 4, 5])
      assert.deepStrictEqual(numbers(broken.events), [1, 2, 3, 4, 5])
    }).pipe(Effect.provide(Layer.merge(trailOver(), Logger.layer([])))))

  it.effect("that go have got what was meant for them before they close, and the others go on", () =>
    Effect.gen(function*() {
      const [leaving, staying] = [recorder("leaving"), recorder("staying")]
      const trail = yield* AuditTrail
      const stay = yield* register(leaving.sink)
      trail.emit(event(1))
      yield* register(staying.sink)
      leaving.gate.closeUnsafe()
      trail.emit(event(2))
      const closing = yield* Effect.forkChild(Scope.close(stay, Exit.void))
      yield* Effect.yieldNow
      trail.emit(event(3))
      assert.isUndefined(closing.pollUnsafe())
      leaving.gate.openUnsafe()
      yield* Fiber.join(closing)
      assert.deepStrictEqual(numbers(leaving.events), [1, 2])
      yield* flush
      assert.deepStrictEqual(numbers(staying.events), [2, 3])
      assert.lengthOf((yield* Audit.AuditQueues).stats(), 1)
    }).pipe(Effect.provide(trailOver())))

  it.effect("that were there before the trail are served, and have all events when it ends", () =>
    Effect.gen(function*() {
      const { events, sink } = recorder("early")
      yield* register(sink)
      const registry = yield* AuditSinkRegistry
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(
        Layer.provide(Audit.layer, Layer.succeed(AuditSinkRegistry, registry)),
        scope
      )
      const trail = Context.get(context, AuditTrail)
      for (let number = 0; number < 2_000; number++) trail.emit(event(number))
      assert.deepStrictEqual(events, [])
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(numbers(events), Array.from({ length: 2_000 }, (_, index) => index))
      assert.isFalse(trail.isActive())
      trail.emit(event(1))
    }).pipe(Effect.provide(AuditSinkRegistry.layer)))
})

describe("events", () => {
  const kept = (emitted: AuditEvent) =>
    Effect.gen(function*() {
      const { events, sink } = recorder("only")
      yield* register(sink)
      ;(yield* AuditTrail).emit(emitted)
      yield* flush
      const [written] = events
      if (written === undefined) throw new Error("nothing was written")
      return written
    }).pipe(Effect.provide(trailOver()))

  it.effect("are cut, and lose what would break a line or deceive a reader", () =>
    Effect.gen(function*() {
      const long = "x".repeat(1_000)
      const written = yield* kept(event(1, {
        requestId: long,
        tenant: "acme\r\nforged",
        user: "ann\u0000\u001b[31m\u202Etxt.exe",
        keyId: "k\u2028",
        details: { long, "na\nme": "va\tlue", half: `${"y".repeat(255)}😀` }
      }))
      assert.strictEqual(written.requestId, "x".repeat(256))
      assert.strictEqual(written.tenant, "acme\uFFFD\uFFFDforged")
      assert.strictEqual(written.user, "ann\uFFFD\uFFFD[31m\uFFFDtxt.exe")
      assert.strictEqual(written.keyId, "k\uFFFD")
      assert.deepStrictEqual(written.details, {
        long: "x".repeat(256),
        "na\uFFFDme": "va\uFFFDlue",
        half: `${"y".repeat(255)}\uFFFD`
      })
    }))

  it.effect("hold plain values alone, and few of them", () =>
    Effect.gen(function*() {
      const many = Object.fromEntries(Array.from({ length: 1_000 }, (_, index) => [`detail${index}`, index]))
      assert.lengthOf(Object.keys((yield* kept(event(1, { details: many }))).details), 32)
      const odd: unknown = { object: { secret: "s" }, list: ["s"], none: null, not: undefined, nan: NaN, big: 1n }
      const written = yield* kept(event(1, {
        // Not all code that emits is type-checked.
        details: Object.assign({ text: "t", number: 0, truth: false }, odd)
      }))
      assert.deepStrictEqual(written.details, { text: "t", number: 0, truth: false })
    }))

  it.effect("are those of the moment, whatever becomes of the object", () =>
    Effect.gen(function*() {
      const details = { state: "before" }
      const { events, sink } = recorder("only")
      yield* register(sink)
      ;(yield* AuditTrail).emit(event(1, { details }))
      details.state = "after"
      yield* flush
      assert.deepStrictEqual(events[0]?.details, { state: "before" })
    }).pipe(Effect.provide(trailOver())))
})

/** `global.gc`, which Node shows only where it is asked to. */
const collectGarbage = (): void => {
  setFlagsFromString("--expose-gc")
  const collect: unknown = runInNewContext("gc")
  if (typeof collect !== "function") throw new Error("the garbage cannot be collected")
  collect()
}

describe("100,000 events that nobody writes", () => {
  it.live("take a bounded amount of memory, and what is dropped is counted", () =>
    Effect.gen(function*() {
      const { gate, sink } = recorder("stuck")
      yield* register(sink)
      gate.closeUnsafe()
      const trail = yield* AuditTrail
      const filling = "f".repeat(200)
      collectGarbage()
      const before = process.memoryUsage().heapUsed
      for (let number = 0; number < 100_000; number++) {
        trail.emit(event(number, { requestId: `${number}`, details: { filling: `${number}${filling}` } }))
      }
      const { stats } = yield* Audit.AuditQueues
      const [queue] = stats()
      assert.strictEqual(queue?.stats.queued, 1_000)
      assert.strictEqual(queue?.stats.dropped, 99_000)
      collectGarbage()
      // All of them would be some 60 MB.
      assert.isBelow(process.memoryUsage().heapUsed - before, 10e6)
    }).pipe(Effect.provide(Layer.merge(trailOver({ capacity: 1_000, closeWithinMs: 1 }), Logger.layer([])))))
})
