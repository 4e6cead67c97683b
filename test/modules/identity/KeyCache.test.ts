/** What the cache of keys does with a store that is slow, silent, or changing its mind; the store is scripted. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Scope } from "effect"
import { TestClock } from "effect/testing"
import { Admission, admit, revokedKey } from "../../../src/modules/identity/Admission.ts"
import * as KeyCache from "../../../src/modules/identity/KeyCache.ts"
import * as SteadyTime from "../../../src/modules/identity/SteadyTime.ts"

const good = (digest: string): KeyCache.StoredAdmission => ({
  id: digest,
  admission: new Admission(digest, admit({ tenant: "acme", keyId: digest, tags: [] }, undefined), Infinity, Infinity)
})
const revoked = (digest: string): KeyCache.StoredAdmission => ({
  id: digest,
  admission: new Admission(digest, revokedKey, Infinity, Infinity)
})

const made = Effect.fnUntraced(function*(load: KeyCache.Load, options?: KeyCache.KeyCacheOptions) {
  return yield* KeyCache.make(load, yield* SteadyTime.make, options)
})

const codeOf = (answer: ReturnType<KeyCache.KeyCache["answer"]>) =>
  Effect.match(answer, { onFailure: ({ code }) => code, onSuccess: ({ keyId }) => keyId })

/** Until other fibers have nothing more to do. */
const settled = Effect.forEach(Array.from({ length: 20 }), () => Effect.yieldNow, { discard: true })

describe("the cache of keys", () => {
  it.effect("does not believe what the store was saying while the key was revoked here", () =>
    Effect.gen(function*() {
      const asked = yield* Deferred.make<void>()
      const go = yield* Deferred.make<void>()
      let state = good
      const cache = yield* made(Effect.fnUntraced(function*(digests) {
        // Read before the revocation, told after it.
        const read = new Map(digests.map((digest) => [digest, state(digest)]))
        yield* Deferred.succeed(asked, undefined)
        yield* Deferred.await(go)
        return read
      }))
      const fiber = yield* Effect.forkChild(codeOf(cache.answer("key")))
      yield* Deferred.await(asked)
      state = revoked
      cache.forget("key")
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual(yield* Fiber.join(fiber), "unauthorized")
      assert.strictEqual(yield* codeOf(cache.answer("key")), "unauthorized")
    }))

  it.effect("waits two seconds for a silent store, and then for no request whose key it knows", () =>
    Effect.gen(function*() {
      let silent = false
      let calls = 0
      const cache = yield* made((digests) => {
        calls++
        return silent ? Effect.never : Effect.succeed(new Map(digests.map((digest) => [digest, good(digest)])))
      })
      assert.strictEqual(yield* codeOf(cache.answer("key")), "key")
      silent = true
      yield* TestClock.adjust("10 seconds")
      const waiting = yield* Effect.forkChild(Effect.all([codeOf(cache.answer("key")), codeOf(cache.answer("other"))], {
        concurrency: "unbounded"
      }))
      yield* settled
      assert.isUndefined(waiting.pollUnsafe())
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* Fiber.join(waiting), ["key", "store_unavailable"])
      const before = calls
      for (let i = 0; i < 1000; i++) {
        assert.strictEqual(yield* codeOf(cache.answer("key")), "key")
        assert.strictEqual(yield* codeOf(cache.answer(`other-${i}`)), "store_unavailable")
      }
      assert.strictEqual(calls, before, "a store that has just been silent is left alone")
      silent = false
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* codeOf(cache.answer("other")), "other")
    }))

  it.effect("asks again in the background, so that a key in use never waits", () =>
    Effect.gen(function*() {
      const calls: Array<ReadonlyArray<string>> = []
      let slow = false
      const cache = yield* made((digests) => {
        calls.push(digests)
        const found = new Map(digests.map((digest) => [digest, good(digest)]))
        return slow ? Effect.delay(Effect.succeed(found), "1 second") : Effect.succeed(found)
      })
      yield* codeOf(cache.answer("key"))
      slow = true
      for (let second = 1; second <= 60; second++) {
        yield* TestClock.adjust("1 second")
        // An answer that has to wait would not be there at once.
        const fiber = yield* Effect.forkChild(codeOf(cache.answer("key")), { startImmediately: true })
        assert.isDefined(fiber.pollUnsafe(), `after ${second} s`)
      }
      assert.isAtLeast(calls.length, 8)
      assert.isAtMost(calls.length, 13)
    }))

  it.effect("puts what is asked for at the same time into few questions, one at a time", () =>
    Effect.gen(function*() {
      let running = 0
      let most = 0
      const sizes: Array<number> = []
      const cache = yield* made(Effect.fnUntraced(function*(digests) {
        most = Math.max(most, ++running)
        sizes.push(digests.length)
        yield* Effect.yieldNow
        running--
        return new Map()
      }))
      const codes = yield* Effect.forEach(
        Array.from({ length: 1000 }, (_, at) => `invented-${at}`),
        (digest) => codeOf(cache.answer(digest)),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(Array.from(new Set(codes)), ["unauthorized"])
      assert.strictEqual(most, 1)
      assert.isAtMost(Math.max(...sizes), 64)
      assert.isAtMost(sizes.length, 20)
    }))

  it.effect("is overloaded beyond so many open questions, and says when to come back", () =>
    Effect.gen(function*() {
      const go = yield* Deferred.make<void>()
      const cache = yield* made(() => Effect.as(Deferred.await(go), new Map()), { maxAsked: 100 })
      const fibers = yield* Effect.forEach(
        Array.from({ length: 150 }, (_, at) => `invented-${at}`),
        (digest) => Effect.forkChild(Effect.flip(cache.answer(digest)), { startImmediately: true })
      )
      yield* Deferred.succeed(go, undefined)
      const errors = yield* Effect.forEach(fibers, Fiber.join)
      const overloaded = errors.filter(({ code }) => code === "overloaded")
      assert.strictEqual(overloaded.length, 50)
      for (const { retryAfterMs, status } of overloaded) assert.deepStrictEqual([status, retryAfterMs], [503, 1000])
    }))

  it.effect("keeps so many known keys and no more", () =>
    Effect.gen(function*() {
      const asked: Array<string> = []
      const cache = yield* made((digests) => {
        asked.push(...digests)
        return Effect.succeed(new Map(digests.map((digest) => [digest, good(digest)])))
      }, { maxKnown: 2 })
      for (const digest of ["a", "b", "c", "c", "b", "a"]) yield* codeOf(cache.answer(digest))
      assert.deepStrictEqual(asked, ["a", "b", "c", "a"])
    }))

  it.effect("lets nobody wait for ever when it is closed, or when the store's driver is broken", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const closed = yield* Scope.provide(made(() => Effect.never), scope)
      const waiting = yield* Effect.forkChild(codeOf(closed.answer("key")), { startImmediately: true })
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(yield* Fiber.join(waiting), "store_unavailable")
      assert.strictEqual(yield* codeOf(closed.answer("key")), "store_unavailable")
      const broken = yield* made(() => Effect.die(new Error("a defect")))
      assert.strictEqual(yield* codeOf(broken.answer("key")), "store_unavailable")
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* codeOf(broken.answer("key")), "store_unavailable")
    }))
})
