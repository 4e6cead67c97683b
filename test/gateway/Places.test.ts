import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { HasPlace, Places, type PlacesOptions } from "../../src/gateway/Places.ts"

const withPlaces = <A, E>(
  options: Partial<PlacesOptions>,
  use: (places: Places["Service"]) => Effect.Effect<A, E>
) => Effect.flatMap(Places, use).pipe(Effect.provide(Places.layer({ queue: 100, patienceMs: 1000, ...options })))

/** Enters, and gives what leaves again. */
const enter = (places: Places["Service"], tenant: string) =>
  Effect.suspend(() => {
    let leave = Effect.void
    return Effect.as(
      places.enter(tenant, (given) => {
        leave = given
      }),
      Effect.suspend(() => leave)
    )
  })

/** Enters, and does not leave. */
const stay = (places: Places["Service"], tenant: string) => Effect.asVoid(enter(places, tenant))

const letRun = Effect.repeat(Effect.yieldNow, { times: 10 })

describe("places among the requests that run", () => {
  it.effect("tenants take turns, however many requests one of them has waiting", () =>
    withPlaces({ all: 1 }, (places) =>
      Effect.gen(function*() {
        const order: Array<string> = []
        const work = (tenant: string) =>
          Effect.flatMap(enter(places, tenant), (leave) =>
            Effect.andThen(Effect.sync(() => order.push(tenant)), Effect.andThen(Effect.yieldNow, leave)))
        const first = yield* enter(places, "loud")
        const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
        for (let request = 0; request < 6; request++) {
          fibers.push(yield* Effect.forkChild(work("loud")))
        }
        yield* letRun
        for (const tenant of ["quiet", "shy", "quiet"]) {
          fibers.push(yield* Effect.forkChild(work(tenant)))
        }
        yield* letRun
        assert.deepStrictEqual(places.figures(), { running: 1, waiting: 9, refused: 0 })
        yield* first
        yield* Fiber.joinAll(fibers)
        // All of the others' are done before half of the loud one's.
        assert.isBelow(order.lastIndexOf("quiet"), 6, order.join(" "))
        assert.isBelow(order.lastIndexOf("shy"), 4, order.join(" "))
        assert.deepStrictEqual(places.figures(), { running: 0, waiting: 0, refused: 0 })
      })))

  it.effect("a tenant has no more than its own most, and others are not kept waiting by it", () =>
    withPlaces({ all: 3, perTenant: 1 }, (places) =>
      Effect.gen(function*() {
        const leave = yield* enter(places, "a")
        const second = yield* Effect.forkChild(stay(places, "a"))
        yield* letRun
        yield* stay(places, "b")
        yield* stay(places, "c")
        assert.strictEqual(places.figures().running, 3)
        assert.strictEqual(places.figures().waiting, 1)
        yield* leave
        yield* Fiber.join(second)
        assert.strictEqual(places.figures().running, 3)
      })))

  it.effect("the queue has an end, of which one tenant has half, and so has the patience", () =>
    withPlaces({ all: 1, queue: 4 }, (places) =>
      Effect.gen(function*() {
        yield* stay(places, "a")
        const waiting = [yield* Effect.forkChild(stay(places, "a")), yield* Effect.forkChild(stay(places, "a"))]
        yield* letRun
        const refused = yield* Effect.flip(stay(places, "a"))
        assert.strictEqual(refused.code, "overloaded")
        assert.strictEqual(refused.status, 503)
        assert.isAbove(refused.retryAfterMs ?? 0, 0)
        waiting.push(yield* Effect.forkChild(stay(places, "b")), yield* Effect.forkChild(stay(places, "c")))
        yield* letRun
        assert.strictEqual((yield* Effect.flip(stay(places, "d"))).code, "overloaded")
        yield* TestClock.adjust(1000)
        for (const fiber of waiting) {
          assert.match((yield* Effect.flip(Fiber.join(fiber))).message, /within 1000 ms/)
        }
        assert.deepStrictEqual(places.figures(), { running: 1, waiting: 0, refused: 6 })
      })))

  it.effect("who leaves the queue leaves nothing behind, at whatever moment", () =>
    withPlaces({ all: 3, perTenant: 2 }, (places) =>
      Effect.gen(function*() {
        let random = 7
        const next = (below: number) => (random = (random * 48_271) % 2_147_483_647) % below
        const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
        for (let request = 0; request < 400; request++) {
          fibers.push(
            yield* Effect.forkChild(
              Effect.acquireUseRelease(
                enter(places, `t${next(4)}`),
                () => Effect.repeat(Effect.yieldNow, { times: next(4) }),
                (leave) => leave
              )
            )
          )
          if (next(2) === 0) yield* Effect.yieldNow
          const victim = fibers[next(fibers.length)]
          if (next(3) === 0 && victim !== undefined) yield* Fiber.interrupt(victim)
          assert.isAtMost(places.figures().running, 3)
        }
        yield* Effect.forEach(fibers, Fiber.await, { discard: true })
        const { running, waiting } = places.figures()
        assert.deepStrictEqual({ running, waiting }, { running: 0, waiting: 0 })
        // All places are there again, for whichever tenants.
        yield* stay(places, "x")
        yield* stay(places, "x")
        yield* stay(places, "y")
        assert.strictEqual(places.figures().running, 3)
      })))

  it.effect("what is asked in the course of a request needs no place of its own", () =>
    withPlaces({ all: 1, queue: 0 }, (places) =>
      Effect.gen(function*() {
        yield* stay(places, "a")
        yield* Effect.provideService(stay(places, "a"), HasPlace, true)
        assert.strictEqual((yield* Effect.flip(stay(places, "a"))).code, "overloaded")
      })))
})
