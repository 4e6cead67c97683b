/** Limits on Redis: round trips, replicas, leases, and what happens while Redis is gone. */
import { NodeRedis } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Layer, Logger, Schedule, Scope } from "effect"
import { RateLimiter, Redis } from "effect/persistence"
import { TestClock } from "effect/testing"
import { spawn } from "node:child_process"
import path from "node:path"
import { createInterface } from "node:readline"
import * as RateLimitsRedis from "../../../src/modules/rateLimits/RateLimitsRedis.ts"
import { enter, type RateDemand, RateLimits } from "../../../src/sdk/RateLimits.ts"
import { redisUrl } from "../../fixtures/Stores.ts"
import { type TcpProxy, tcpProxy } from "../../fixtures/TcpProxy.ts"
import * as OnRedis from "./OnRedis.ts"

const of = (key: string, options: Partial<RateDemand> = {}): RateDemand => ({
  key,
  name: "requests per user",
  kind: "requests",
  limit: 100,
  windowMs: 30 * 86_400_000,
  amount: 1,
  ...options
})
const group = (key: string, limit: number) => ({ key, name: "concurrent requests per user", limit })
const remaining = (limits: RateLimits["Service"], key: string) =>
  Effect.map(limits.take([of(key, { amount: 0 })]), ([level]) => level?.remaining)
const soon = { schedule: Schedule.spaced("10 millis"), times: 1000 }

/** What this module has logged. */
interface Told {
  readonly level: string
  readonly text: string
}

const listening = (told: Array<Told>) =>
  Logger.layer([
    Logger.make(({ logLevel, message }) => {
      const text = Array.isArray(message) ? message.map(String).join(" ") : String(message)
      if (text.startsWith("rate limits")) told.push({ level: logLevel, text })
    })
  ])

interface Far {
  readonly proxy: TcpProxy
  readonly limits: RateLimits["Service"]
  /** The same limits by a way that is never cut. */
  readonly direct: RateLimits["Service"]
  readonly prefix: string
  readonly told: ReadonlyArray<Told>
}

interface FarOptions extends Omit<RateLimitsRedis.Options, "prefix"> {
  readonly offlineQueue?: boolean
}

/** Limits on a Redis behind a proxy. */
const withFar = <A, E>(
  { offlineQueue = false, ...options }: FarOptions,
  use: (far: Far) => Effect.Effect<A, E, Scope.Scope | Redis.Redis>
) =>
  Effect.gen(function*() {
    const proxy = yield* tcpProxy(OnRedis.url, 6379)
    const told: Array<Told> = []
    const prefix = OnRedis.freshPrefix()
    const far = RateLimitsRedis.layer({ ...options, prefix }).pipe(
      Layer.provide(
        Layer.fresh(NodeRedis.layer({ url: proxy.url, disableOfflineQueue: !offlineQueue }))
      )
    )
    return yield* Effect.gen(function*() {
      const direct = yield* RateLimits
      return yield* Effect.gen(function*() {
        const limits = yield* RateLimits
        return yield* use({ proxy, limits, direct, prefix, told })
      }).pipe(Effect.scoped, Effect.provide(far))
    }).pipe(Effect.provide(OnRedis.layer({ prefix }).pipe(Layer.provideMerge(listening(told)))))
  })

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const start = performance.now()
    return Effect.map(effect, (value) => [performance.now() - start, value] as const)
  })

/** Runs a replica; gives what it has to be told to begin, and how many takes passed. */
const replica = (prefix: string, limit: number, takes: number) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() =>
        spawn(
          process.execPath,
          [path.join(import.meta.dirname, "TakingProcess.ts"), OnRedis.url, prefix, String(limit), String(takes)],
          { stdio: ["pipe", "pipe", "inherit"] }
        )
      ),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    ),
    (child) => {
      const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
      const line = Effect.promise(() => lines.next())
      return {
        ready: line,
        begin: Effect.sync(() => child.stdin.write("begin\n")),
        passed: Effect.map(line, ({ value }) => Number(value))
      }
    }
  )

describe.skipIf(redisUrl === undefined)("rate limits on Redis", () => {
  it.live("three limits are one command and one write; what is asked at the same time shares a write", () =>
    withFar({ onFailure: "closed", commandTimeout: 10_000 }, ({ limits, proxy }) =>
      Effect.gen(function*() {
        const demands = [of("tenant"), of("user"), of("tokens", { kind: "tokens", amount: 3 })]
        const all = Effect.all(
          [limits.take(demands), enter(limits, [group("tenant", 50), group("user", 50)], 60_000), limits.take(demands)],
          { concurrency: "unbounded" }
        )
        yield* all
        const commands = () => proxy.sent.join("").match(/EVALSHA|EVAL\r|SCRIPT|SET\r|GET\r/g)
        const start = proxy.sent.length
        const before = commands()?.length ?? 0
        yield* limits.take(demands)
        assert.strictEqual(proxy.sent.length - start, 1)
        assert.strictEqual((commands()?.length ?? 0) - before, 1)
        yield* all
        assert.strictEqual(proxy.sent.length - start, 2)
        assert.strictEqual((commands()?.length ?? 0) - before, 4)
        assert.strictEqual(commands()?.at(-1), "EVALSHA")
      })))

  it.live("two processes on one Redis grant exactly the limit", () =>
    Effect.gen(function*() {
      const prefix = OnRedis.freshPrefix()
      yield* Effect.provide(
        Effect.scoped(
          Effect.gen(function*() {
            const replicas = yield* Effect.all([replica(prefix, 500, 2000), replica(prefix, 500, 2000)])
            yield* Effect.forEach(replicas, ({ ready }) => ready)
            yield* Effect.forEach(replicas, ({ begin }) => begin)
            const passed = yield* Effect.forEach(replicas, ({ passed }) => passed, { concurrency: "unbounded" })
            assert.strictEqual(passed.reduce((sum, one) => sum + one, 0), 500)
            for (const one of passed) assert.isAbove(one, 0)
            const limits = yield* RateLimits
            const [shared, wide] = yield* limits.take([
              of("shared", { limit: 500, amount: 0 }),
              of("wide", { limit: 10_000 })
            ])
            assert.strictEqual(shared?.remaining, 0)
            assert.strictEqual(wide?.remaining, 10_000 - 501)
          })
        ),
        OnRedis.layer({ prefix })
      )
    }))

  it.live("the library's RateLimiter understands the buckets, and the other way round", () => {
    const prefix = OnRedis.freshPrefix()
    return Effect.gen(function*() {
      const limits = yield* RateLimits
      const limiter = yield* RateLimiter.make
      yield* limits.take([of("a", { amount: 40 })])
      const consume = { algorithm: "token-bucket", key: "a:bucket", limit: 100, window: "30 days", tokens: 11 } as const
      assert.strictEqual((yield* limiter.consume(consume)).remaining, 49)
      assert.strictEqual(yield* remaining(limits, "a"), 49)
    }).pipe(
      Effect.provide(
        RateLimiter.layerStoreRedis({ prefix: `${prefix}{limits}:` }).pipe(
          Layer.provideMerge(OnRedis.layer({ prefix }))
        )
      )
    )
  })

  it.live("all keys are in one slot of a cluster, go away by themselves, and are gone when buckets are full", () => {
    const prefix = OnRedis.freshPrefix()
    return Effect.gen(function*() {
      const limits = yield* RateLimits
      const redis = yield* Redis.Redis
      yield* Effect.scoped(
        Effect.gen(function*() {
          yield* limits.take([of("a{b}"), of("c", { amount: 0 }), of("d", { windowMs: 60_000, limit: 60 })])
          yield* enter(limits, [group("e", 1)], 20_000)
          const keys = yield* OnRedis.keysOf(prefix)
          assert.lengthOf(keys, 5)
          const slots = yield* Effect.forEach(keys, (key) => redis.send("CLUSTER", "KEYSLOT", key)).pipe(
            // A server without cluster support does not tell; the tag is what counts then.
            Effect.orElseSucceed(() => keys.map((key) => key.split("{limits}")[0]))
          )
          assert.lengthOf(new Set(slots), 1)
          const lives = yield* Effect.forEach(keys, (key) => redis.send<number>("PTTL", key))
          assert.isTrue(lives.every((ms) => ms > 0), String(lives))
          assert.isAtMost(Math.min(...lives), 1000)
        })
      )
      yield* limits.correct([of("a{b}", { amount: -1 }), of("d", { windowMs: 60_000, limit: 60, amount: -1 })])
      yield* limits.take([of("c", { amount: 0 })])
      assert.deepStrictEqual(yield* OnRedis.keysOf(prefix), [])
    }).pipe(Effect.provide(OnRedis.layer({ prefix })))
  })

  it.live("when the clock of Redis jumps back, nothing comes back early and nobody is locked out", () => {
    const prefix = OnRedis.freshPrefix()
    return Effect.gen(function*() {
      const limits = yield* RateLimits
      const redis = yield* Redis.Redis
      const demand = of("a", { limit: 100, windowMs: 10_000, amount: 100 })
      yield* limits.take([demand])
      // What a jump leaves behind: an interval that begins in an hour.
      const inAnHour = String((yield* Clock.currentTimeMillis) + 3_600_000)
      yield* redis.send("SET", `${prefix}{limits}:a:bucket:refill`, inAnHour, "PX", "3700000")
      yield* redis.send("PEXPIRE", `${prefix}{limits}:a:bucket`, "3700000")
      const error = yield* Effect.flip(limits.take([{ ...demand, amount: 2 }]))
      assert.strictEqual(error.retryAfterMs, 200)
      yield* limits.take([{ ...demand, amount: 2 }]).pipe(Effect.retry(soon))
    }).pipe(Effect.provide(OnRedis.layer({ prefix })))
  })

  it.live("a place that nobody leaves is free when its lease is over", () =>
    Effect.gen(function*() {
      const limits = yield* RateLimits
      const dead = yield* Scope.make()
      yield* Effect.provideService(enter(limits, [group("a", 1)], 300), Scope.Scope, dead)
      yield* Effect.flip(Effect.scoped(enter(limits, [group("a", 1)], 60_000)))
      yield* enter(limits, [group("a", 1)], 60_000).pipe(Effect.retry(soon))
      // Who comes back after that has no place to leave, and least of all another's.
      yield* Scope.close(dead, Exit.void)
      yield* Effect.flip(enter(limits, [group("a", 1)], 60_000))
    }).pipe(Effect.scoped, Effect.provide(OnRedis.layer())))

  it.live("corrections that are on their way are made before the layer closes", () => {
    const prefix = OnRedis.freshPrefix()
    return Effect.gen(function*() {
      yield* Effect.gen(function*() {
        const limits = yield* RateLimits
        for (let i = 0; i < 80; i++) yield* limits.correct([of("a")])
      }).pipe(Effect.provide(Layer.fresh(RateLimitsRedis.layer({ prefix, onFailure: "open" }))))
      assert.strictEqual(yield* remaining(yield* RateLimits, "a"), 20)
    }).pipe(Effect.provide(OnRedis.layer({ prefix })))
  })

  it.live("after Redis has forgotten its scripts they are sent again", () =>
    withFar({ onFailure: "closed", commandTimeout: 10_000 }, ({ limits, proxy, told }) =>
      Effect.gen(function*() {
        yield* limits.take([of("a")])
        const redis = yield* Redis.Redis
        yield* redis.send("SCRIPT", "FLUSH")
        const start = proxy.sent.length
        assert.strictEqual((yield* limits.take([of("a")]))[0]?.remaining, 98)
        assert.isAtLeast(proxy.sent.length - start, 1)
        yield* Effect.scoped(enter(limits, [group("a", 1)], 60_000))
        yield* enter(limits, [group("a", 1)], 60_000)
        assert.lengthOf(told, 0)
      })))

  for (const offlineQueue of [false, true]) {
    describe(`while Redis is gone, with a client that ${offlineQueue ? "queues" : "refuses"} commands`, () => {
      it.live("open: requests pass uncounted at once, and are counted again when it is back", () =>
        withFar(
          { onFailure: "open", commandTimeout: 500, offlineQueue },
          ({ direct, limits, proxy, told }) =>
            Effect.gen(function*() {
              yield* limits.take([of("a", { amount: 40 })])
              yield* Effect.promise(() => proxy.cut())
              const [first] = yield* timed(
                Effect.flatMap(
                  limits.take([of("a")]),
                  (levels) => Effect.sync(() => assert.deepStrictEqual(levels, []))
                )
              )
              assert.isBelow(first, 5000)
              const [rest] = yield* timed(
                Effect.forEach(
                  Array.from({ length: 500 }),
                  () => Effect.andThen(limits.take([of("a")]), Effect.scoped(enter(limits, [group("a", 1)], 1000)))
                )
              )
              // One in a second may try, and waits; a thousand that waited would take minutes.
              assert.isBelow(rest, 20_000)
              // What can never pass is no matter of the store.
              assert.strictEqual((yield* Effect.flip(limits.take([of("a", { amount: 101 })]))).code, "rate_limited")
              yield* limits.correct([of("a")])
              yield* Effect.promise(() => proxy.mend())
              const levels = yield* Effect.suspend(() => limits.take([of("a", { amount: 0 })])).pipe(
                Effect.filterOrFail((levels) => levels.length > 0),
                Effect.retry(soon)
              )
              assert.deepStrictEqual(told.map(({ level }) => level), ["Error", "Info"])
              assert.match(told[0]?.text ?? "", /Redis does not answer, and requests pass without being counted/)
              assert.lengthOf(levels, 1)
              // Nothing that was not counted is counted later.
              assert.strictEqual(yield* remaining(direct, "a"), 60)
              yield* limits.take([of("a", { amount: 60 })])
              yield* Effect.flip(limits.take([of("a")]))
            })
        ))

      it.live("closed: requests fail with store_unavailable, and pass again when it is back", () =>
        withFar(
          { onFailure: "closed", commandTimeout: 500, offlineQueue },
          ({ direct, limits, proxy, told }) =>
            Effect.gen(function*() {
              yield* limits.take([of("a", { amount: 40 })])
              yield* Effect.promise(() => proxy.cut())
              const [elapsed] = yield* timed(
                Effect.forEach(Array.from({ length: 500 }), (_, i) =>
                  Effect.gen(function*() {
                    const error = yield* Effect.flip(
                      i % 2 === 0 ? limits.take([of("a")]) : Effect.scoped(enter(limits, [group("a", 1)], 1000))
                    )
                    assert.strictEqual(error.code, "store_unavailable")
                    assert.strictEqual(error.status, 503)
                    assert.notInclude(error.message, "127.0.0.1")
                  }))
              )
              assert.isBelow(elapsed, 20_000)
              yield* Effect.promise(() => proxy.mend())
              yield* limits.take([of("a", { amount: 0 })]).pipe(Effect.retry(soon))
              assert.deepStrictEqual(told.map(({ level }) => level), ["Error", "Info"])
              assert.match(told[0]?.text ?? "", /Redis does not answer, and requests are refused/)
              assert.strictEqual(yield* remaining(direct, "a"), 60)
            })
        ))
    })
  }

  it.live("a Redis that goes silent is waited for once, and what comes too late is undone", () =>
    withFar({ onFailure: "open", commandTimeout: 200 }, ({ direct, limits, proxy, told }) =>
      Effect.gen(function*() {
        yield* Effect.scoped(enter(limits, [group("a", 1)], 60_000))
        yield* limits.take([of("a", { amount: 40 })])
        proxy.silence()
        const [waited, passed] = yield* timed(
          Effect.all(
            [
              ...Array.from({ length: 12 }, () => limits.take([of("a", { amount: 5 })])),
              enter(limits, [group("a", 1)], 60_000)
            ],
            { concurrency: "unbounded" }
          )
        )
        for (const levels of passed.slice(0, 12)) assert.deepStrictEqual(levels, [])
        assert.isAtLeast(waited, 190)
        assert.isBelow(waited, 5000)
        // Who goes away while waiting takes nothing with him either.
        const sent = proxy.sent.length
        proxy.speak()
        yield* limits.take([of("a", { amount: 0 })]).pipe(
          Effect.filterOrFail((levels) => levels.length > 0),
          Effect.retry(soon)
        )
        assert.isAbove(proxy.sent.length, sent)
        assert.deepStrictEqual(told.map(({ level }) => level), ["Error", "Info"])
        // What was asked for in the silence has been done by now or will be, and is taken back.
        yield* Effect.suspend(() => remaining(direct, "a")).pipe(
          Effect.filterOrFail((left) => left === 60),
          Effect.retry(soon)
        )
        yield* enter(direct, [group("a", 1)], 60_000).pipe(Effect.retry(soon))
      })))

  it.live("a pause of the whole process is not taken for one of Redis", () =>
    withFar({ onFailure: "closed", commandTimeout: 100 }, ({ limits, told }) =>
      Effect.gen(function*() {
        yield* limits.take([of("a")])
        const fiber = yield* Effect.forkChild(limits.take([of("a")]), { startImmediately: true })
        const start = performance.now()
        while (performance.now() - start < 300);
        assert.strictEqual((yield* Fiber.join(fiber))[0]?.remaining, 98)
        assert.lengthOf(told, 0)
      })))

  it.live("who goes away while Redis is asked takes nothing", () =>
    withFar({ onFailure: "closed", commandTimeout: 10_000 }, ({ direct, limits, proxy }) =>
      Effect.gen(function*() {
        yield* limits.take([of("a", { amount: 40 })])
        proxy.silence()
        const fiber = yield* Effect.forkChild(
          Effect.all([limits.take([of("a")]), Effect.scoped(enter(limits, [group("a", 1)], 60_000))], {
            concurrency: "unbounded"
          }),
          { startImmediately: true }
        )
        yield* Effect.sleep("20 millis")
        yield* Fiber.interrupt(fiber)
        proxy.speak()
        yield* limits.take([of("b")])
        yield* Effect.suspend(() => remaining(direct, "a")).pipe(
          Effect.filterOrFail((left) => left === 60),
          Effect.retry(soon)
        )
        yield* enter(direct, [group("a", 1)], 60_000).pipe(Effect.retry(soon))
      })))

  it.live("places that were left while Redis was gone are free when it is back, long before their lease is over", () =>
    withFar({ onFailure: "open", commandTimeout: 200 }, ({ direct, limits, proxy }) =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        yield* Effect.provideService(enter(limits, [group("a", 2), group("b", 1)], 600_000), Scope.Scope, scope)
        yield* Effect.flip(enter(direct, [group("b", 1)], 1000))
        yield* Effect.promise(() => proxy.cut())
        yield* Scope.close(scope, Exit.void)
        yield* limits.take([of("a")])
        yield* Effect.promise(() => proxy.mend())
        yield* limits.take([of("a")]).pipe(Effect.filterOrFail((levels) => levels.length > 0), Effect.retry(soon))
        yield* enter(direct, [group("b", 1)], 60_000).pipe(Effect.retry(soon))
      })))

  it.effect("an outage that begins after a clock has jumped back is noticed like any other, and ends like any other", () =>
    withFar({ onFailure: "open", commandTimeout: 200 }, ({ limits, proxy, told }) =>
      Effect.gen(function*() {
        const back = TestClock.adjust("1 second").pipe(
          Effect.andThen(limits.take([of("a")])),
          Effect.filterOrFail((levels) => levels.length > 0),
          // Waits for the socket, whose time is not that of the test.
          Effect.tapError(() => Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 10)))),
          Effect.retry({ times: 1000 })
        )
        yield* TestClock.setTime(10_000_000)
        for (const now of [6_000_000, 1000]) {
          yield* limits.take([of("a")])
          yield* Effect.promise(() => proxy.cut())
          assert.deepStrictEqual(yield* limits.take([of("a")]), [])
          yield* TestClock.setTime(now)
          yield* Effect.promise(() => proxy.mend())
          yield* back
        }
        // Reminders come by the clock, wherever it goes.
        const changes = told.filter(({ text }) => !text.includes("still"))
        assert.deepStrictEqual(changes.map(({ level }) => level), ["Error", "Info", "Error", "Info"])
      })))

  it.effect("a long outage is told of every 30 seconds, whatever the number of requests", () =>
    withFar({ onFailure: "open", commandTimeout: 200 }, ({ limits, proxy, told }) =>
      Effect.gen(function*() {
        yield* limits.take([of("a")])
        yield* Effect.promise(() => proxy.cut())
        for (let second = 0; second < 95; second++) {
          for (let i = 0; i < 20; i++) yield* limits.take([of("a")])
          yield* TestClock.adjust("1 second")
        }
        assert.deepStrictEqual(told.map(({ text }) => text.split(", ")[0]), [
          "rate limits: Redis does not answer",
          "rate limits: Redis still does not answer",
          "rate limits: Redis still does not answer",
          "rate limits: Redis still does not answer"
        ])
      })))
})
