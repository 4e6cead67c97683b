/** What callers can rely on, of the limits in memory and of those on Redis. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Schedule, Scope } from "effect"
import * as RateLimitsMemory from "../../../src/modules/rateLimits/RateLimitsMemory.ts"
import type { GatewayError } from "../../../src/sdk/GatewayError.ts"
import { type ConcurrencyDemand, enter, type RateDemand, RateLimits } from "../../../src/sdk/RateLimits.ts"
import { redisUrl } from "../../fixtures/Stores.ts"
import * as OnRedis from "./OnRedis.ts"

const day = 86_400_000
let keys = 0

/** A bucket that nobody has used, and that does not refill while a test runs. */
const fresh = (options: Partial<RateDemand> = {}): RateDemand => ({
  key: `bucket ${keys++}`,
  name: "requests per user",
  kind: "requests",
  limit: 10,
  windowMs: 30 * day,
  amount: 1,
  ...options
})

/** A demand that shows how full its bucket is. */
const justLooking = ({ key, kind, limit, name, windowMs }: RateDemand): RateDemand => ({
  key,
  kind,
  limit,
  name,
  windowMs,
  amount: 0
})

const group = (limit: number): ConcurrencyDemand => ({
  key: `group ${keys++}`,
  name: "concurrent requests per user",
  limit
})

const reasonOf = (exit: Exit.Exit<unknown, GatewayError>): GatewayError | undefined =>
  Exit.isFailure(exit) && exit.cause.reasons[0]?._tag === "Fail" ? exit.cause.reasons[0].error : undefined

/** Numbers that look random and are the same in every run. */
const random = (seed: number) => () => {
  seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
  return seed / 2_147_483_648
}

const stores: ReadonlyArray<readonly [name: string, isThere: boolean, layer: () => Layer.Layer<RateLimits>]> = [
  ["in memory", true, () => RateLimitsMemory.layer()],
  ["on Redis", redisUrl !== undefined, () => Layer.orDie(OnRedis.layer())]
]

for (const [name, isThere, layer] of stores) {
  const test = (title: string, body: (limits: RateLimits["Service"]) => Effect.Effect<void, unknown, Scope.Scope>) =>
    it.live(title, () => Effect.provide(Effect.scoped(Effect.flatMap(RateLimits, body)), layer()))

  describe.skipIf(!isThere)(`rate limits ${name}`, () => {
    test("a full bucket lets exactly its limit pass, and says what is left", (limits) =>
      Effect.gen(function*() {
        const demand = fresh({ limit: 3, windowMs: 30 * day })
        for (const remaining of [2, 1, 0]) {
          const [level] = yield* limits.take([demand])
          assert.strictEqual(level?.remaining, remaining)
          assert.deepInclude(level, { name: "requests per user", kind: "requests", limit: 3 })
          assert.approximately(level?.resetMs ?? 0, (3 - remaining) * 10 * day, 60_000)
        }
        const error = yield* Effect.flip(limits.take([demand]))
        assert.strictEqual(error.code, "rate_limited")
        assert.approximately(error.retryAfterMs ?? 0, 10 * day, 60_000)
        assert.strictEqual(error.message, "3 requests per 30 days per user: try again in 240 h")
      }))

    test("levels come in the order of the demands", (limits) =>
      Effect.gen(function*() {
        const demands = [
          fresh({ limit: 5 }),
          fresh({ limit: 1000, kind: "tokens", name: "tokens of tenant acme", amount: 300 }),
          fresh({ limit: 7 })
        ]
        const levels = yield* limits.take(demands)
        assert.deepStrictEqual(levels.map(({ kind, limit, name, remaining }) => [name, kind, limit, remaining]), [
          ["requests per user", "requests", 5, 4],
          ["tokens of tenant acme", "tokens", 1000, 700],
          ["requests per user", "requests", 7, 6]
        ])
        assert.deepStrictEqual(yield* limits.take([]), [])
        yield* limits.correct([])
        yield* enter(limits, [], 1000)
      }))

    test("the limit holds under 1,000 takes of random amounts at the same time", (limits) =>
      Effect.gen(function*() {
        const next = random(1)
        const demand = fresh({ limit: 20_000, kind: "tokens" })
        const amounts = Array.from({ length: 1000 }, () => 1 + Math.floor(next() * 100))
        const exits = yield* Effect.forEach(
          amounts,
          (amount) => Effect.exit(limits.take([{ ...demand, amount }])),
          { concurrency: "unbounded" }
        )
        const sum = (isWanted: (exit: (typeof exits)[number]) => boolean) =>
          exits.reduce((total, exit, i) => isWanted(exit) ? total + (amounts[i] ?? 0) : total, 0)
        const granted = sum(Exit.isSuccess)
        assert.isAtMost(granted, 20_000)
        assert.isAbove(sum(Exit.isFailure), 0)
        // Nothing came back meanwhile, so that whoever was refused asked for more than there is now.
        for (const [i, exit] of exits.entries()) {
          if (Exit.isFailure(exit)) assert.isAbove(amounts[i] ?? 0, 20_000 - granted)
        }
        const [level] = yield* limits.take([{ ...demand, amount: 0 }])
        assert.strictEqual(level?.remaining, 20_000 - granted)
      }))

    test("of 1,000 at the same time as many pass as the limit says", (limits) =>
      Effect.gen(function*() {
        const demand = fresh({ limit: 137 })
        const exits = yield* Effect.forEach(
          Array.from({ length: 1000 }),
          () => Effect.exit(limits.take([demand])),
          { concurrency: "unbounded" }
        )
        assert.lengthOf(exits.filter(Exit.isSuccess), 137)
        assert.isTrue(exits.filter(Exit.isFailure).every((exit) => reasonOf(exit)?.code === "rate_limited"))
      }))

    test("with three limits everything is taken or nothing", (limits) =>
      Effect.gen(function*() {
        const [tenant, user, key] = [fresh({ limit: 50 }), fresh({ limit: 20 }), fresh({ limit: 30 })]
        const other = fresh({ limit: 20 })
        const exits = yield* Effect.forEach(
          Array.from({ length: 300 }, (_, i) => i % 2 === 0 ? [tenant, user, key] : [other, key, tenant]),
          (demands) => Effect.exit(limits.take(demands)),
          { concurrency: "unbounded" }
        )
        const passed = (parity: number) => exits.filter((exit, i) => i % 2 === parity && Exit.isSuccess(exit)).length
        const left = yield* limits.take([tenant, user, key, other].map(justLooking))
        assert.deepStrictEqual(left.map(({ remaining }) => remaining), [
          50 - passed(0) - passed(1),
          20 - passed(0),
          30 - passed(0) - passed(1),
          20 - passed(1)
        ])
        assert.strictEqual(passed(0) + passed(1), 30)
      }))

    test("the refusal names the limit that needs longest", (limits) =>
      Effect.gen(function*() {
        const minute = fresh({ limit: 60, windowMs: 60_000, amount: 60, name: "requests per user of tenant acme" })
        const hour = fresh({
          limit: 1000,
          windowMs: 3_600_000,
          amount: 1000,
          name: "tokens of tenant acme",
          kind: "tokens"
        })
        yield* limits.take([minute, hour])
        const error = yield* Effect.flip(limits.take([{ ...minute, amount: 30 }, { ...hour, amount: 100 }, fresh()]))
        assert.match(error.message, /^1000 tokens per hour of tenant acme: try again in 6 min$|in 35\d s$/)
        assert.approximately(error.retryAfterMs ?? 0, 360_000, 5000)
        const soon = yield* Effect.flip(limits.take([{ ...minute, amount: 12 }]))
        assert.match(soon.message, /^60 requests per minute per user of tenant acme: try again in (9|1\d) s$/)
      }))

    test("a demand larger than its limit is told that it never passes, and takes nothing", (limits) =>
      Effect.gen(function*() {
        const small = fresh({ limit: 2000, windowMs: 60_000, kind: "tokens", name: "tokens per key" })
        const beside = fresh()
        const error = yield* Effect.flip(limits.take([beside, { ...small, amount: 5000 }]))
        assert.strictEqual(error.code, "rate_limited")
        assert.strictEqual(error.retryAfterMs, 60_000)
        assert.strictEqual(
          error.message,
          "2000 tokens per minute per key: this request counts as 5000 tokens, which is more than the limit, so that it " +
            "will never pass"
        )
        const levels = yield* limits.take([{ ...beside, amount: 0 }, { ...small, amount: 0 }])
        assert.deepStrictEqual(levels.map(({ remaining, resetMs }) => [remaining, resetMs]), [[10, 0], [2000, 0]])
      }))

    test("demands that are no numbers are a fault of the pipeline, and spoil no bucket", (limits) =>
      Effect.gen(function*() {
        const demand = fresh()
        for (
          const wrong of [{ amount: NaN }, { amount: -1 }, { limit: NaN }, { limit: -1, amount: 0 }, { windowMs: 0 }]
        ) {
          const exit = yield* Effect.exit(limits.take([{ ...demand, ...wrong }]))
          assert.isTrue(Exit.isFailure(exit) && exit.cause.reasons[0]?._tag === "Die", JSON.stringify(wrong))
          yield* limits.correct([{ ...demand, ...wrong, amount: NaN }])
        }
        yield* limits.correct([{ ...demand, amount: Infinity }, { ...demand, amount: -Infinity }])
        assert.strictEqual((yield* limits.take([demand]))[0]?.remaining, 9)
      }))

    test("corrections give back and take, also what is not there", (limits) =>
      Effect.gen(function*() {
        const demand = fresh({ limit: 1000, kind: "tokens", amount: 600 })
        yield* limits.take([demand])
        yield* limits.correct([{ ...demand, amount: -250 }])
        assert.strictEqual((yield* limits.take([{ ...demand, amount: 0 }]))[0]?.remaining, 650)
        yield* limits.correct([{ ...demand, amount: 1150 }])
        const [level] = yield* limits.take([fresh()])
        assert.strictEqual(level?.remaining, 9)
        const error = yield* Effect.flip(limits.take([{ ...demand, amount: 1 }]))
        // 500 are missing, and one more is wanted.
        assert.approximately(error.retryAfterMs ?? 0, 501 / 1000 * 30 * day, 60_000)
        yield* limits.correct([{ ...demand, amount: -501 }])
        assert.strictEqual((yield* limits.take([{ ...demand, amount: 1 }]))[0]?.remaining, 0)
      }))

    test("what is given back never makes more than the limit", (limits) =>
      Effect.gen(function*() {
        const demand = fresh({ limit: 10 })
        yield* limits.correct([{ ...demand, amount: -1000 }])
        yield* limits.take([{ ...demand, amount: 4 }])
        yield* limits.correct([{ ...demand, amount: -1000 }])
        const exits = yield* Effect.forEach(Array.from({ length: 30 }), () => Effect.exit(limits.take([demand])))
        assert.lengthOf(exits.filter(Exit.isSuccess), 10)
      }))

    test("a bucket that nobody has used can go into debt", (limits) =>
      Effect.gen(function*() {
        const demand = fresh({ limit: 10 })
        yield* limits.correct([{ ...demand, amount: 25 }])
        const error = yield* Effect.flip(limits.take([demand]))
        assert.approximately(error.retryAfterMs ?? 0, 16 * 3 * day, 60_000)
      }))

    test("another limit holds at once, and keeps what was taken", (limits) =>
      Effect.gen(function*() {
        const demand = fresh({ limit: 100 })
        yield* limits.take([{ ...demand, amount: 20 }])
        assert.strictEqual((yield* limits.take([{ ...demand, limit: 30 }]))[0]?.remaining, 29)
        assert.strictEqual((yield* limits.take([{ ...demand, limit: 1000 }]))[0]?.remaining, 28)
      }))

    test("a bucket that is named twice is taken from twice", (limits) =>
      Effect.gen(function*() {
        const demand = fresh({ limit: 3 })
        assert.deepStrictEqual(
          (yield* limits.take([demand, demand])).map(({ remaining }) => remaining),
          [2, 1]
        )
        assert.strictEqual((yield* Effect.flip(limits.take([demand, demand]))).code, "rate_limited")
        assert.strictEqual((yield* limits.take([demand]))[0]?.remaining, 0)
      }))

    test("no name reaches another's bucket", (limits) =>
      Effect.gen(function*() {
        const demand = fresh({ limit: 5, amount: 5 })
        yield* limits.take([demand])
        const long = "u".repeat(20_000)
        const names = [
          ":refill",
          ":bucket",
          ":bucket:refill",
          "}",
          "{x}",
          "\r\n$3\r\nfoo",
          "\0",
          "*",
          "é",
          long,
          `${long}v`
        ]
        for (const name of names) {
          const other = { ...demand, key: `${demand.key}${name}` }
          assert.strictEqual((yield* limits.take([other]))[0]?.remaining, 0, name.slice(0, 20))
          assert.strictEqual((yield* Effect.flip(limits.take([other]))).code, "rate_limited")
        }
        assert.strictEqual((yield* Effect.flip(limits.take([demand]))).code, "rate_limited")
      }))

    test("who waits as long as the refusal says gets in", (limits) =>
      Effect.gen(function*() {
        const demand = fresh({ limit: 7, windowMs: 1000, amount: 7 })
        yield* limits.take([demand])
        const error = yield* Effect.flip(limits.take([{ ...demand, amount: 2 }]))
        assert.isAbove(error.retryAfterMs ?? 0, 0)
        assert.isAtMost(error.retryAfterMs ?? Infinity, 286)
        // Timers may go off a millisecond early.
        yield* Effect.sleep((error.retryAfterMs ?? 0) + 2)
        yield* limits.take([{ ...demand, amount: 2 }])
      }))

    test("over any time no more passes than the limit and what came back", (limits) =>
      Effect.gen(function*() {
        const demand = fresh({ limit: 50, windowMs: 100 })
        const start = performance.now()
        let granted = 0
        let refused = 0
        yield* Effect.forEach(
          Array.from({ length: 8 }),
          () =>
            Effect.gen(function*() {
              while (performance.now() - start < 400) {
                const exit = yield* Effect.exit(limits.take([{ ...demand, amount: 3 }]))
                if (Exit.isSuccess(exit)) granted += 3
                else refused++
                yield* Effect.sleep(0)
              }
            }),
          { concurrency: "unbounded" }
        )
        assert.isAtMost(granted, 50 + (performance.now() - start + 1) / 2)
        assert.isAbove(granted, 50)
        assert.isAbove(refused, 0)
      }))

    test("of 1,000 at the same time as many find a place as there are", (limits) =>
      Effect.gen(function*() {
        const places = group(10)
        const exits = yield* Effect.forEach(
          Array.from({ length: 1000 }),
          () => Effect.exit(enter(limits, [places], 60_000)),
          { concurrency: "unbounded" }
        )
        assert.lengthOf(exits.filter(Exit.isSuccess), 10)
        const messages = new Set(exits.map((exit) => reasonOf(exit)?.message).filter((text) => text !== undefined))
        assert.deepStrictEqual(Array.from(messages), [
          "10 concurrent requests per user: all places are taken; try again when one of these requests has ended"
        ])
      }))

    test("places: never more than the limit at the same time, and all are free again", (limits) =>
      Effect.gen(function*() {
        const next = random(7)
        const [tenant, user] = [group(10), group(6)]
        let inTenant = 0
        let inUser = 0
        let passed = 0
        const request = (demands: ReadonlyArray<ConcurrencyDemand>, turns: number) =>
          Effect.scoped(
            Effect.gen(function*() {
              yield* enter(limits, demands, 60_000)
              yield* Effect.acquireRelease(
                Effect.sync(() => {
                  passed++
                  assert.isAtMost(++inTenant, 10)
                  if (demands.length > 1) assert.isAtMost(++inUser, 6)
                }),
                () =>
                  Effect.sync(() => {
                    inTenant--
                    if (demands.length > 1) inUser--
                  })
              )
              for (let turn = 0; turn < turns; turn++) yield* Effect.sleep(0)
            })
          )
        yield* Effect.forEach(
          Array.from({ length: 1000 }),
          Effect.fnUntraced(function*(_, i) {
            for (let turn = 0; turn < i / 10; turn++) yield* Effect.sleep(0)
            const turns = Math.floor(next() * 5)
            const fiber = yield* Effect.forkChild(request(next() < 0.5 ? [tenant] : [tenant, user], turns))
            if (next() < 0.5) {
              for (let turn = 0; turn < next() * 6; turn++) yield* Effect.sleep(0)
              yield* Fiber.interrupt(fiber)
            }
            const exit = yield* Fiber.await(fiber)
            const isRefused = reasonOf(exit)?.code === "rate_limited"
            assert.isTrue(isRefused || Exit.isSuccess(exit) || Exit.hasInterrupts(exit), String(exit))
          }),
          { concurrency: "unbounded" }
        )
        assert.isAbove(passed, 20)
        // Who is interrupted while the store is asked leaves as soon as the store has answered.
        const soon = { schedule: Schedule.spaced("10 millis"), times: 500 }
        const fits = (demands: ReadonlyArray<ConcurrencyDemand>, places: number) =>
          Effect.scoped(
            Effect.gen(function*() {
              for (let i = 0; i < places; i++) yield* enter(limits, demands, 60_000)
              return yield* Effect.exit(enter(limits, demands, 60_000))
            })
          ).pipe(Effect.retry(soon))
        assert.strictEqual(reasonOf(yield* fits([tenant, user], 6))?.code, "rate_limited")
        assert.strictEqual(reasonOf(yield* fits([tenant], 10))?.code, "rate_limited")
      }))

    test("a place is left once, however its scope ends, and who comes next finds it", (limits) =>
      Effect.gen(function*() {
        const one = group(1)
        for (const exit of [Exit.void, Exit.fail("no"), Exit.interrupt(), Exit.die("no")]) {
          const scope = yield* Scope.make()
          yield* Effect.provideService(enter(limits, [one], 60_000), Scope.Scope, scope)
          const error = yield* Effect.flip(Effect.scoped(enter(limits, [one], 60_000)))
          assert.strictEqual(error.code, "rate_limited")
          assert.isAbove(error.retryAfterMs ?? 0, 0)
          yield* Scope.close(scope, exit)
          yield* Scope.close(scope, exit)
        }
        yield* enter(limits, [one], 60_000)
        assert.strictEqual((yield* Effect.flip(enter(limits, [one], 60_000))).code, "rate_limited")
      }))

    test("places in several groups are taken in all of them or in none", (limits) =>
      Effect.gen(function*() {
        const [tenant, user] = [group(2), group(1)]
        const scope = yield* Scope.make()
        yield* Effect.provideService(enter(limits, [tenant, user], 60_000), Scope.Scope, scope)
        for (let i = 0; i < 5; i++) {
          const error = yield* Effect.flip(enter(limits, [tenant, user], 60_000))
          assert.match(error.message, /^1 concurrent requests per user/)
        }
        yield* enter(limits, [tenant], 60_000)
        assert.strictEqual((yield* Effect.flip(enter(limits, [tenant], 60_000))).code, "rate_limited")
        yield* Scope.close(scope, Exit.void)
        yield* enter(limits, [user, tenant], 60_000)
      }))
  })
}
