/** The queue in front of sinks: it never holds a request up, keeps the order, and loses nothing without saying so. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Latch, Logger, References, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as RecordQueue from "../../src/gateway/RecordQueue.ts"
import { SinkError } from "../../src/sdk/UsageSink.ts"

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, index) => from + index)
const broken = new SinkError({ sink: "test", message: "the disk is full" })

/** A sink whose writes wait while the gate is shut, fail while it is told to, and are kept otherwise. */
const recorder = () => {
  const batches: Array<ReadonlyArray<number>> = []
  const gate = Latch.makeUnsafe(true)
  const state: { failing: Effect.Effect<void, SinkError> | undefined; attempts: number } = {
    failing: undefined,
    attempts: 0
  }
  const write = (batch: ReadonlyArray<number>) =>
    Effect.andThen(
      gate.await,
      Effect.suspend(() => {
        state.attempts++
        if (state.failing !== undefined) return state.failing
        batches.push(batch)
        return Effect.void
      })
    )
  return { batches, gate, state, write, all: () => batches.flat() }
}

/** Lets everything run that can run without the clock. */
const settle = Effect.andThen(Effect.yieldNow, Effect.andThen(Effect.yieldNow, Effect.yieldNow))

const logs = () => {
  const lines: Array<string> = []
  const layer = Logger.layer([
    Logger.make(({ logLevel, message }) => lines.push(`${logLevel} ${JSON.stringify(message)}`))
  ])
  return { lines, layer }
}
const quiet = Effect.provideService(References.MinimumLogLevel, "None")

describe("batches", () => {
  it.effect("what arrives in one turn is one batch, without the clock moving", () =>
    Effect.gen(function*() {
      const { batches, write } = recorder()
      const queue = yield* RecordQueue.make({ name: "q", write })
      for (const n of range(0, 10)) assert.isTrue(queue.offer(n))
      assert.deepStrictEqual(batches, [], "an offer does none of the work itself")
      assert.strictEqual(queue.stats.queued, 10)
      yield* queue.flush
      assert.deepStrictEqual(batches, [range(0, 10)])
      assert.strictEqual(queue.stats.queued, 0)
      assert.strictEqual(queue.stats.written, 10)
    }))

  it.effect("while one is written the next gathers, up to its limit and in order", () =>
    Effect.gen(function*() {
      const { batches, gate, write } = recorder()
      const queue = yield* RecordQueue.make({ name: "q", maxBatch: 4, write })
      gate.closeUnsafe()
      queue.offer(0)
      yield* settle
      for (const n of range(1, 11)) queue.offer(n)
      gate.openUnsafe()
      yield* queue.flush
      assert.deepStrictEqual(batches, [[0], range(1, 5), range(5, 9), range(9, 11)])
    }))

  it.effect("with a linger the first record waits for others, unless the batch is full or somebody flushes", () =>
    Effect.gen(function*() {
      const { batches, write } = recorder()
      const queue = yield* RecordQueue.make({ name: "q", lingerMs: 100, maxBatch: 3, write })
      queue.offer(0)
      yield* TestClock.adjust(60)
      queue.offer(1)
      yield* TestClock.adjust(39)
      assert.deepStrictEqual(batches, [])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(batches, [[0, 1]])
      for (const n of range(2, 5)) queue.offer(n)
      yield* settle
      assert.deepStrictEqual(batches.at(-1), [2, 3, 4])
      queue.offer(5)
      yield* queue.flush
      assert.deepStrictEqual(batches.at(-1), [5])
    }))

  it.effect("flush waits for what was taken before it, and for no more", () =>
    Effect.gen(function*() {
      const { gate, write } = recorder()
      const queue = yield* RecordQueue.make({ name: "q", maxBatch: 1, write })
      yield* queue.flush
      gate.closeUnsafe()
      queue.offer(0)
      const first = yield* Effect.forkChild(queue.flush)
      yield* settle
      queue.offer(1)
      const second = yield* Effect.forkChild(queue.flush)
      yield* settle
      assert.isUndefined(first.pollUnsafe())
      yield* gate.release
      yield* Fiber.join(first)
      assert.isUndefined(second.pollUnsafe())
      yield* Fiber.interrupt(second)
      yield* gate.open
      yield* queue.flush
      assert.strictEqual(queue.stats.written, 2)
    }))
})

describe("a sink that fails", () => {
  for (
    const [how, failing] of [
      ["fails", Effect.fail(broken)],
      ["dies", Effect.die(new Error("a prompt"))],
      ["is interrupted from within", Effect.interrupt]
    ] as const
  ) {
    it.effect(`and ${how} gets the same batch again, with growing pauses of 5 s at most, and the order stays`, () =>
      Effect.gen(function*() {
        const { all, batches, state, write } = recorder()
        const queue = yield* RecordQueue.make({ name: "q", write })
        state.failing = failing
        for (const n of range(0, 3)) queue.offer(n)
        yield* settle
        for (const n of range(3, 6)) queue.offer(n)
        yield* TestClock.adjust("1 minute")
        // 100 ms doubled up to 5 s, each at half its length at least.
        assert.isAtLeast(state.attempts, 15)
        assert.isAtMost(state.attempts, 40)
        const before = state.attempts
        yield* TestClock.adjust("5 seconds")
        assert.isAbove(state.attempts, before)
        assert.strictEqual(queue.stats.retries, state.attempts)
        assert.strictEqual(queue.stats.queued, 6)
        state.failing = undefined
        const flushing = yield* Effect.forkChild(queue.flush)
        yield* TestClock.adjust("5 seconds")
        yield* Fiber.join(flushing)
        assert.deepStrictEqual(batches, [range(0, 3), range(3, 6)])
        assert.deepStrictEqual(all(), range(0, 6))
        assert.strictEqual(queue.stats.dropped, 0)
      }).pipe(quiet))
  }

  it.effect("is told of at once and then every ten seconds at most, without the words of a defect", () => {
    const { layer, lines } = logs()
    return Effect.gen(function*() {
      const { state, write } = recorder()
      const queue = yield* RecordQueue.make({ name: "sink \"test\"", write })
      state.failing = Effect.die(new Error("a prompt"))
      queue.offer(0)
      yield* settle
      assert.lengthOf(lines, 1)
      assert.include(lines[0], "sink \\\"test\\\"")
      yield* TestClock.adjust("1 minute")
      assert.isAtLeast(lines.length, 4)
      assert.isAtMost(lines.length, 7)
      state.failing = undefined
      yield* TestClock.adjust("5 seconds")
      assert.include(lines.at(-1), "written again")
      assert.notInclude(lines.join("\n"), "a prompt")
    }).pipe(Effect.provide(layer))
  })
})

describe("a full queue", () => {
  it.effect("drops what comes, counts it, and tells of it at most every ten seconds", () => {
    const { layer, lines } = logs()
    return Effect.gen(function*() {
      const { all, gate, write } = recorder()
      const queue = yield* RecordQueue.make({ name: "q", capacity: 5, maxBatch: 2, write })
      yield* Effect.addFinalizer(() => gate.open)
      gate.closeUnsafe()
      for (const n of range(0, 2)) assert.isTrue(queue.offer(n))
      yield* settle
      for (const n of range(2, 5)) assert.isTrue(queue.offer(n), "the batch on its way counts")
      for (const n of range(5, 8)) assert.isFalse(queue.offer(n))
      yield* settle
      assert.strictEqual(queue.stats.dropped, 3)
      assert.strictEqual(queue.stats.queued, 5)
      assert.lengthOf(lines, 1)
      assert.include(lines[0], "\"records\":3")
      for (const _ of range(0, 100)) {
        assert.isFalse(queue.offer(9))
        yield* TestClock.adjust(90)
      }
      assert.lengthOf(lines, 1)
      yield* TestClock.adjust("1 seconds")
      assert.lengthOf(lines, 2)
      assert.include(lines[1], "\"records\":100")
      yield* gate.open
      yield* queue.flush
      assert.deepStrictEqual(all(), range(0, 5))
      assert.isTrue(queue.offer(5), "there is room again")
      yield* TestClock.adjust("1 minute")
      assert.lengthOf(lines, 2)
    }).pipe(Effect.provide(layer))
  })

  it.effect("100,000 records that nobody writes take the room of the queue, and not more", () =>
    Effect.gen(function*() {
      const { gate, write } = recorder()
      gate.closeUnsafe()
      const queue = yield* RecordQueue.make<number>({ name: "q", capacity: 1_000, write })
      let taken = 0
      for (const n of range(0, 100_000)) if (queue.offer(n)) taken++
      assert.strictEqual(taken, 1_000)
      assert.strictEqual(queue.stats.queued, 1_000)
      assert.strictEqual(queue.stats.dropped, 99_000)
      yield* gate.open
      yield* queue.flush
      assert.strictEqual(queue.stats.written, 1_000)
    }).pipe(quiet))
})

describe("the end", () => {
  const closing = (
    options: Partial<RecordQueue.RecordQueueOptions<number>>,
    use: (
      queue: RecordQueue.RecordQueue<number>,
      sink: ReturnType<typeof recorder>,
      close: Effect.Effect<void>
    ) => Effect.Effect<void>
  ) =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const sink = recorder()
      const queue = yield* Scope.provide(RecordQueue.make({ name: "q", ...options, write: sink.write }), scope)
      yield* use(queue, sink, Scope.close(scope, Exit.void))
    })

  it.effect("writes all that is left, however long its batches linger", () =>
    closing({ lingerMs: 60_000, maxBatch: 7 }, (queue, { all }, close) =>
      Effect.gen(function*() {
        for (const n of range(0, 100)) queue.offer(n)
        yield* close
        assert.deepStrictEqual(all(), range(0, 100))
        assert.isFalse(queue.offer(100))
        assert.strictEqual(queue.stats.queued, 0)
        yield* queue.flush
      })))

  it.effect("tries once more at once what failed before it, and goes on trying", () =>
    closing({ retry: { baseMs: 4_000, maxMs: 4_000 } }, (queue, { all, state }, close) =>
      Effect.gen(function*() {
        state.failing = Effect.fail(broken)
        queue.offer(0)
        yield* settle
        assert.strictEqual(state.attempts, 1)
        const ended = yield* Effect.forkChild(close)
        yield* settle
        yield* settle
        assert.strictEqual(state.attempts, 2)
        state.failing = undefined
        yield* TestClock.adjust("4 seconds")
        yield* Fiber.join(ended)
        assert.deepStrictEqual(all(), [0])
        assert.strictEqual(queue.stats.dropped, 0)
      })).pipe(quiet))

  for (
    const [what, write] of [
      ["fails", Effect.fail(broken)],
      ["hangs", Effect.never],
      ["hangs and cannot be interrupted", Effect.uninterruptible(Effect.never)]
    ] as const
  ) {
    it.effect(`counts and tells what a sink that ${what} left unwritten after ten seconds`, () => {
      const { layer, lines } = logs()
      return closing({ maxBatch: 2 }, (queue, { state }, close) =>
        Effect.gen(function*() {
          state.failing = write
          for (const n of range(0, 5)) queue.offer(n)
          const flushing = yield* Effect.forkChild(queue.flush)
          const ended = yield* Effect.forkChild(close)
          yield* TestClock.adjust(9_999)
          assert.isUndefined(ended.pollUnsafe())
          assert.strictEqual(queue.stats.queued, 5)
          yield* TestClock.adjust(1)
          yield* Fiber.join(ended)
          yield* Fiber.join(flushing)
          assert.deepStrictEqual({ ...pick(queue.stats) }, { queued: 0, written: 0, dropped: 5 })
          assert.include(lines.at(-1), "\"records\":5")
          const { attempts } = state
          yield* TestClock.adjust("1 minute")
          assert.strictEqual(state.attempts, attempts, "nothing goes on behind the end's back")
        })).pipe(Effect.provide(layer))
    })
  }

  const pick = ({ dropped, queued, written }: RecordQueue.RecordQueueStats) => ({ queued, written, dropped })

  it.effect("what was written as the end came is not counted as lost", () =>
    Effect.gen(function*() {
      const written = yield* Deferred.make<void>()
      const scope = yield* Scope.make()
      const queue = yield* Scope.provide(
        RecordQueue.make<number>({
          name: "q",
          closeWithinMs: 5,
          write: () => Effect.andThen(Effect.yieldNow, Deferred.succeed(written, undefined))
        }),
        scope
      )
      queue.offer(0)
      yield* Deferred.await(written)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(pick(queue.stats), { queued: 0, written: 1, dropped: 0 })
    }))
})
