/**
 * The attempts of a request in virtual time, over candidates that only follow a script: what is retried, what goes on to
 * the next candidate, what ends it, and that nothing is left running. The property at the end compares any script with a
 * model of the rules that shares no code with them.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Deferred, Effect, Exit, Fiber, Random, Schema, Scope } from "effect"
import { TestClock } from "effect/testing"
import { type Attempt, runAttempts } from "../../src/gateway/Attempts.ts"
import { type Exchange, start } from "../../src/gateway/Exchange.ts"
import type { AttemptError } from "../../src/gateway/Failure.ts"
import type { ModelHealth } from "../../src/gateway/Health.ts"
import type { Candidate, Plan } from "../../src/gateway/Plan.ts"
import { limitAnswer } from "../../src/gateway/Timers.ts"
import type { ProviderErrorKind } from "../../src/sdk/GatewayError.ts"
import { type Failure, isHeldBack, ProviderError } from "../../src/sdk/Provider.ts"
import type { Route } from "../../src/sdk/Routes.ts"
import { plain } from "./PlainProvider.ts"

/** What one attempt does: after `ms` of virtual time it succeeds, fails, or dies; or it never ends. */
type Outcome =
  | { readonly type: "ok"; readonly ms: number }
  | { readonly type: "fail"; readonly ms: number; readonly error: Omit<Failure, "message"> }
  | { readonly type: "hang" }
  | { readonly type: "defect"; readonly ms: number }

const ok = (ms = 10): Outcome => ({ type: "ok", ms })
const fails = (kind: ProviderErrorKind, more: Partial<Failure> = {}, ms = 10): Outcome => ({
  type: "fail",
  ms,
  error: { ...more, kind }
})
const hang: Outcome = { type: "hang" }
const broken = (state: "open" | "half_open" = "open"): Outcome => fails("transient", { breaker: state }, 0)
const refused = fails("caller", { refused: true }, 0)

/** One candidate: what its attempts do in turn (the last outcome repeats), and its context window. */
interface Scripted {
  readonly outcomes: ReadonlyArray<Outcome>
  readonly contextWindow?: number
}

const script = (...outcomes: ReadonlyArray<Outcome>): Scripted => ({ outcomes })
const sized = (contextWindow: number, ...outcomes: ReadonlyArray<Outcome>): Scripted => ({ outcomes, contextWindow })

/** What happened in one run. Times are ms since the request began. */
interface Log {
  /** Each attempt's candidate and start, in order; `a1` is the second candidate's. */
  readonly started: Array<{ readonly name: string; readonly at: number; readonly last: boolean }>
  /** When each attempt was over, whichever way. */
  readonly ended: Array<{ readonly name: string; readonly at: number; readonly how: "ok" | "failed" | "interrupted" }>
  /** Held now: one for each attempt that runs. */
  held: number
}

const route = (more: Partial<Route>): Route => ({ name: "r", policy: "priority", models: [], ...more })

const candidatesOf = (scripts: ReadonlyArray<Scripted>): Plan["candidates"] => {
  const [first, ...others] = scripts.map(({ contextWindow }, index): Candidate => ({
    model: {
      id: `plain::a${index}`,
      provider: "plain",
      model: `a${index}`,
      status: "active",
      ...(contextWindow === undefined ? {} : { contextWindow })
    },
    provider: plain({})
  }))
  return first === undefined ? assert.fail("a plan needs a candidate") : [first, ...others]
}

const planOf = (scripts: ReadonlyArray<Scripted>, more: Partial<Plan> = {}): Plan => ({
  candidates: candidatesOf(scripts),
  skipped: [],
  strategy: "sequential",
  attempts: 4,
  retry: { baseMs: 100, maxMs: 1_200 },
  timeouts: { connect: 1_000, firstToken: 1_000, idle: 1_000, total: 60_005 },
  ...more
})

/** Attempts at whole answers that follow the scripts, under the timers as real ones are. */
const attempts = (
  exchange: Exchange,
  plan: Plan,
  scripts: ReadonlyArray<Scripted>,
  log: Log
): Attempt<string, never> => {
  const counts = new Map<string, number>()
  return (candidate, { force, last: isLast }) =>
    Effect.suspend(() => {
      const name = candidate.model.model
      const { outcomes } = scripts[plan.candidates.indexOf(candidate)] ?? assert.fail("an unknown candidate")
      const turn = counts.get(name) ?? 0
      counts.set(name, turn + 1)
      const scripted = outcomes[Math.min(turn, outcomes.length - 1)] ?? hang
      // What an open circuit refuses, it lets through where nothing else is left.
      const isBroken = scripted.type === "fail" && isHeldBack(scripted.error)
      const outcome = isBroken && force ? ok(0) : scripted
      const run = (): Effect.Effect<string, ProviderError> => {
        switch (outcome.type) {
          case "ok":
            return Effect.delay(Effect.succeed(name), outcome.ms)
          case "fail":
            return Effect.delay(
              Effect.fail(new ProviderError({ provider: "plain", message: `${name} failed`, ...outcome.error })),
              outcome.ms
            )
          case "hang":
            return Effect.never
          case "defect":
            return Effect.delay(Effect.die("a defect"), outcome.ms)
        }
      }
      return Effect.acquireUseRelease(
        Effect.sync(() => {
          log.held++
          log.started.push({ name, at: exchange.elapsed(), last: force })
        }),
        () => limitAnswer("plain", plan.timeouts, { elapsed: exchange.elapsed(), followed: !isLast })(run()),
        (_, exit) =>
          Effect.sync(() => {
            log.held--
            const how = Exit.isSuccess(exit) ? "ok" : Cause.hasInterruptsOnly(exit.cause) ? "interrupted" : "failed"
            log.ended.push({ name, at: exchange.elapsed(), how })
          })
      )
    })
}

interface Run {
  readonly exit: Exit.Exit<string, AttemptError>
  /** When the request was over. */
  readonly at: number
  readonly log: Log
  readonly exchange: Exchange
}

/** Jitter that neither lengthens nor shortens. */
const noJitter = { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => 0.5 }

/** Runs scripts to their end in virtual time; there is none that outlasts the deadline. */
const run = Effect.fnUntraced(function*(
  scripts: ReadonlyArray<Scripted>,
  more: Partial<Plan> = {},
  options: { readonly jitter?: boolean; readonly recent?: (id: string) => ModelHealth; readonly streamed?: boolean } =
    {}
): Effect.fn.Return<Run> {
  const exchange = yield* start("plain::a0", options.streamed ?? false)
  const log: Log = { started: [], ended: [], held: 0 }
  const plan = planOf(scripts, more)
  const attempted = runAttempts(exchange, plan, attempts(exchange, plan, scripts, log), options.recent)
  const fiber = yield* Effect.forkChild(
    Effect.flatMap(Effect.exit(attempted), (exit) =>
      Effect.sync(() => {
        assert.strictEqual(log.held, 0, "nothing runs any more when the result is there")
        return { exit, at: exchange.elapsed(), log, exchange }
      })).pipe(
        (self) => options.jitter === true ? self : Effect.provideService(self, Random.Random, noJitter)
      ),
    { startImmediately: true }
  )
  yield* TestClock.adjust(plan.timeouts.total + 1)
  assert.isDefined(fiber.pollUnsafe(), "the request is over when its time is")
  const done = yield* Fiber.join(fiber)
  assert.strictEqual(log.started.length, log.ended.length, "every attempt that began is over")
  return done
})

const startsOf = ({ log }: Run) => log.started.map(({ at, name }) => `${name}@${at}`)
const valueOf = ({ exit }: Run) => Exit.isSuccess(exit) ? exit.value : Cause.pretty(exit.cause)
const errorOf = ({ exit }: Run): AttemptError => {
  const failure = Exit.isFailure(exit) ? exit.cause.reasons.find(Cause.isFailReason) : undefined
  return failure?.error ?? assert.fail("expected a failure")
}
const kindOf = (run: Run): string => {
  const error = errorOf(run)
  return error._tag === "ProviderError" ? error.kind : error.phase
}

// ---------------------------------------------------------------------------------------------------------------------
// One after another
// ---------------------------------------------------------------------------------------------------------------------

describe("retries", () => {
  it.effect("a first attempt that succeeds is the only one", () =>
    Effect.gen(function*() {
      const done = yield* run([script(ok()), script(ok())])
      assert.deepStrictEqual([valueOf(done), startsOf(done)], ["a0", ["a0@0"]])
    }))

  it.effect("the pauses double up to the cap", () =>
    Effect.gen(function*() {
      const done = yield* run([script(fails("transient", {}, 0))], { attempts: 7 })
      // 100, 200, 400, 800, and then no more than what jitter keeps under 1200.
      assert.deepStrictEqual(startsOf(done), ["a0@0", "a0@100", "a0@300", "a0@700", "a0@1500", "a0@2500", "a0@3500"])
      assert.strictEqual(kindOf(done), "transient")
    }))

  it.effect("the pauses are jittered, and never longer than the cap", () =>
    Effect.gen(function*() {
      const pauses = new Set<number>()
      for (let turn = 0; turn < 20; turn++) {
        const done = yield* run([script(fails("transient", {}, 0))], { attempts: 7 }, { jitter: true })
        const times = done.log.started.map(({ at }) => at)
        times.slice(1).forEach((at, index) => {
          const pause = at - (times[index] ?? 0)
          const nominal = Math.min(100 * 2 ** index, 1000)
          assert.isAtLeast(pause, nominal * 0.8 - 0.01)
          assert.isAtMost(pause, nominal * 1.2 + 0.01)
          if (index === 0) pauses.add(pause)
        })
      }
      assert.isAbove(pauses.size, 10)
    }))

  it.effect("the provider's own pause is waited for", () =>
    Effect.gen(function*() {
      const done = yield* run([script(fails("quota", { retryAfterMs: 730 }, 0), ok())])
      assert.deepStrictEqual([valueOf(done), startsOf(done)], ["a0", ["a0@0", "a0@730"]])
    }))

  it.effect("a hint that is shorter than the own pause does not shorten it", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(startsOf(yield* run([script(fails("quota", { retryAfterMs: 1 }, 0), ok())])), [
        "a0@0",
        "a0@100"
      ])
    }))

  it.effect("too long a pause goes on to the next candidate, and is told where there is none", () =>
    Effect.gen(function*() {
      const slow = fails("quota", { retryAfterMs: 1_201 }, 0)
      const done = yield* run([script(slow), script(ok())])
      assert.deepStrictEqual([valueOf(done), startsOf(done)], ["a1", ["a0@0", "a1@0"]])
      const alone = yield* run([script(slow)])
      assert.deepStrictEqual(startsOf(alone), ["a0@0"])
      const error = errorOf(alone)
      assert.strictEqual(error._tag === "ProviderError" ? error.retryAfterMs : undefined, 1_201)
    }))

  it.effect("a spent credit is not retried", () =>
    Effect.gen(function*() {
      const done = yield* run([script(fails("quota", { code: "insufficient_quota" }, 0)), script(ok())])
      assert.deepStrictEqual(startsOf(done), ["a0@0", "a1@0"])
    }))

  it.effect("the pauses of a new candidate begin at the shortest", () =>
    Effect.gen(function*() {
      const down = script(fails("transient", {}, 0))
      const done = yield* run([down, down], { attempts: 6 })
      assert.deepStrictEqual(startsOf(done), ["a0@0", "a0@100", "a0@300", "a0@700", "a0@1500", "a1@1500"])
      const two = yield* run([script(fails("transient", {}, 0), fails("protocol", {}, 0)), down], { attempts: 4 })
      assert.deepStrictEqual(startsOf(two), ["a0@0", "a0@100", "a1@100", "a1@200"])
    }))
})

describe("the budget", () => {
  const down = script(fails("transient", {}, 0))

  it.effect("is shared by retries and fallbacks, and a retry never takes what an untried candidate needs", () =>
    Effect.gen(function*() {
      for (const [budget, expected] of [[1, "a0"], [2, "a0 a1"], [3, "a0 a1 a2"], [4, "a0 a0 a1 a2"]] as const) {
        const { log } = yield* run([down, down, down], { attempts: budget })
        assert.strictEqual(log.started.map(({ name }) => name).join(" "), expected)
      }
    }))

  it.effect("a call that opened its circuit has drawn from it", () =>
    Effect.gen(function*() {
      const opens = script(fails("transient", { breaker: "opened" }))
      const { log } = yield* run([opens, opens, script(ok())], { attempts: 2 })
      assert.strictEqual(log.started.map(({ name }) => name).join(" "), "a0 a1")
    }))

  it.effect("what never left the gateway draws nothing from it", () =>
    Effect.gen(function*() {
      const done = yield* run([script(broken()), script(refused), script(broken("half_open")), script(ok())], {
        attempts: 1
      })
      assert.strictEqual(valueOf(done), "a3")
    }))
})

describe("the last turn", () => {
  const lastsOf = (scripts: ReadonlyArray<Scripted>, more: Partial<Plan>) =>
    Effect.gen(function*() {
      const exchange = yield* start("plain::a0", true)
      const lasts: Array<boolean> = []
      const failing: Attempt<string, never> = (_, { last }) => {
        lasts.push(last)
        return Effect.fail(new ProviderError({ provider: "plain", kind: "protocol", message: "it failed" }))
      }
      yield* Effect.exit(runAttempts(exchange, planOf(scripts, more), failing))
      return lasts
    })

  it.effect.each(["sequential", "parallel"] as const)(
    "%s: is that of the last candidate, or of the last attempt",
    (strategy) =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* lastsOf([script()], { strategy }), [true])
        assert.deepStrictEqual(yield* lastsOf([script(), script()], { strategy }), [false, true])
        assert.deepStrictEqual(yield* lastsOf([script(), script(), script()], { strategy, attempts: 2 }), [false, true])
        assert.deepStrictEqual(yield* lastsOf([script(), script()], { strategy, attempts: 1 }), [true])
      })
  )
})

describe("the deadline", () => {
  it.effect("leaves no time for a pause: the next candidate is tried at once", () =>
    Effect.gen(function*() {
      const done = yield* run([script(fails("transient", {}, 950)), script(ok())], {
        timeouts: { connect: 1, firstToken: 1, idle: 1, answer: 1_000, total: 1_000 }
      })
      assert.deepStrictEqual([valueOf(done), startsOf(done)], ["a1", ["a0@0", "a1@950"]])
    }))

  it.effect("spans all attempts", () =>
    Effect.gen(function*() {
      const done = yield* run([script(fails("protocol", {}, 600)), script(hang)], {
        timeouts: { connect: 1, firstToken: 1, idle: 1, answer: 1_000, total: 1_000 }
      })
      assert.deepStrictEqual([kindOf(done), done.at, startsOf(done)], ["total", 1_000, ["a0@0", "a1@600"]])
    }))

  it.effect("ends it even where a route would go on", () =>
    Effect.gen(function*() {
      const done = yield* run([script(fails("protocol", {}, 100)), script(hang)], {
        timeouts: { connect: 1, firstToken: 1, idle: 1, total: 1_000 },
        route: route({ onFailure: { timeout_total: "next" } })
      })
      assert.deepStrictEqual([kindOf(done), done.at, startsOf(done)], ["total", 1_000, ["a0@0", "a1@100"]])
    }))

  it.effect("leaves a silent candidate half of what is left of it, and the last one all the rest", () =>
    Effect.gen(function*() {
      const timeouts = { connect: 1, firstToken: 1, idle: 1, total: 1_000 }
      const served = yield* run([script(hang), script(hang), script(ok(249))], { timeouts })
      assert.deepStrictEqual([valueOf(served), startsOf(served)], ["a2", ["a0@0", "a1@500", "a2@750"]])
      const silent = yield* run([script(hang), script(hang)], { timeouts })
      assert.deepStrictEqual([kindOf(silent), silent.at, startsOf(silent)], ["total", 1_000, ["a0@0", "a1@500"]])
      const spent = yield* run([script(hang), script(ok())], { timeouts, attempts: 1 })
      assert.deepStrictEqual([kindOf(spent), spent.at], ["total", 1_000])
    }))

  it.effect("gives every attempt the time that is set for one", () =>
    Effect.gen(function*() {
      const timeouts = { connect: 1, firstToken: 1, idle: 1, answer: 100, total: 1_000 }
      const done = yield* run([script(hang), script(hang)], { timeouts })
      assert.deepStrictEqual([kindOf(done), done.at, startsOf(done)], ["answer", 200, ["a0@0", "a1@100"]])
      const retried = yield* run([script(hang, ok())], {
        timeouts,
        route: route({ onFailure: { timeout_answer: "retry" } })
      })
      assert.deepStrictEqual([valueOf(retried), startsOf(retried)], ["a0", ["a0@0", "a0@200"]])
    }))

  it.effect("leaves time for the next candidate when the hedge before it is silent for good", () =>
    Effect.gen(function*() {
      const done = yield* run([script(hang), script(fails("credential", {}, 100)), script(ok())], {
        strategy: "parallel",
        hedgeAfterMs: 300,
        attempts: 3,
        timeouts: { connect: 1, firstToken: 1, idle: 1, total: 1_000 }
      })
      assert.deepStrictEqual([valueOf(done), startsOf(done)], ["a2", ["a0@0", "a1@300", "a2@400"]])
      const late = yield* run([script(hang), script(ok(10))], {
        strategy: "parallel",
        hedgeAfterMs: 2_000,
        timeouts: { connect: 1, firstToken: 1, idle: 1, total: 1_000 }
      })
      assert.deepStrictEqual([valueOf(late), startsOf(late)], ["a1", ["a0@0", "a1@500"]])
    }))
})

describe("what follows on which failure", () => {
  const next = ["credential", "protocol"] as const
  const final = ["caller", "contentPolicy"] as const

  it.effect.each(next)("%s: the next candidate, at once", (kind) =>
    Effect.gen(function*() {
      assert.deepStrictEqual(startsOf(yield* run([script(fails(kind)), script(ok())])), ["a0@0", "a1@10"])
    }))

  it.effect.each(final)("%s: the end", (kind) =>
    Effect.gen(function*() {
      const done = yield* run([script(fails(kind)), script(ok())])
      assert.deepStrictEqual([kindOf(done), startsOf(done)], [kind, ["a0@0"]])
    }))

  it.effect("a route says otherwise", () =>
    Effect.gen(function*() {
      const overridden = {
        route: route({ onFailure: { contentPolicy: "next", transient: "final", protocol: "retry" } })
      }
      assert.deepStrictEqual(startsOf(yield* run([script(fails("contentPolicy")), script(ok())], overridden)), [
        "a0@0",
        "a1@10"
      ])
      assert.deepStrictEqual(startsOf(yield* run([script(fails("transient")), script(ok())], overridden)), ["a0@0"])
      assert.deepStrictEqual(startsOf(yield* run([script(fails("protocol"), ok()), script(ok())], overridden)), [
        "a0@0",
        "a0@110"
      ])
    }))

  it.effect("what is refused before it is sent goes on, and the route cannot make it a retry", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(startsOf(yield* run([script(refused), script(ok())])), ["a0@0", "a1@0"])
      const retried = yield* run([script(refused)], { route: route({ onFailure: { caller: "retry" } }) })
      assert.deepStrictEqual(startsOf(retried), ["a0@0"])
      const ended = yield* run([script(refused), script(ok())], { route: route({ onFailure: { caller: "final" } }) })
      assert.deepStrictEqual(startsOf(ended), ["a0@0"])
    }))

  it.effect("contextLength: only models with a larger window, also after other failures", () =>
    Effect.gen(function*() {
      const tooLong = fails("contextLength", {}, 0)
      const done = yield* run([
        sized(8_000, tooLong),
        sized(8_000, ok()),
        sized(32_000, fails("protocol", {}, 0)),
        sized(4_000, ok()),
        sized(16_000, ok())
      ])
      assert.deepStrictEqual([valueOf(done), startsOf(done)], ["a4", ["a0@0", "a2@0", "a4@0"]])
      const none = yield* run([sized(8_000, tooLong), sized(4_000, ok())])
      assert.deepStrictEqual([kindOf(none), startsOf(none)], ["contextLength", ["a0@0"]])
      const unknown = yield* run([sized(8_000, tooLong), script(ok())])
      assert.strictEqual(valueOf(unknown), "a1")
    }))

  it.effect("candidates that are too small keep no attempt back from a retry", () =>
    Effect.gen(function*() {
      const done = yield* run([
        sized(8_000, fails("contextLength", {}, 0)),
        sized(4_000, ok()),
        sized(32_000, fails("transient", {}, 0), ok()),
        sized(4_000, ok())
      ], { attempts: 3 })
      assert.deepStrictEqual([valueOf(done), startsOf(done)], ["a2", ["a0@0", "a2@0", "a2@100"]])
    }))

  it.effect("an open circuit is no reason not to try the last candidate, where none was called", () =>
    Effect.gen(function*() {
      const all = yield* run([script(broken()), script(broken())])
      assert.deepStrictEqual([valueOf(all), all.log.started.map(({ last }) => last)], ["a1", [false, true]])
      const alone = yield* run([script(broken())])
      assert.strictEqual(valueOf(alone), "a0")
    }))

  it.effect("an open circuit is not forced by a request that has called a provider, and its error is not the answer", () =>
    Effect.gen(function*() {
      const done = yield* run([script(fails("protocol")), script(broken())])
      assert.deepStrictEqual([kindOf(done), done.log.started.map(({ last }) => last)], ["protocol", [false, false]])
      const retried = yield* run([script(fails("transient"), broken())])
      assert.deepStrictEqual(retried.log.started.map(({ last }) => last), [true, false])
      assert.notProperty(errorOf(retried), "breaker")
    }))

  it.effect("the error is the last one that a provider caused", () =>
    Effect.gen(function*() {
      assert.strictEqual(kindOf(yield* run([script(fails("protocol")), script(fails("credential"))])), "credential")
      assert.strictEqual(kindOf(yield* run([script(refused), script(fails("protocol"))])), "protocol")
      assert.strictEqual(kindOf(yield* run([script(fails("protocol")), script(refused)])), "protocol")
      assert.strictEqual(kindOf(yield* run([script(refused), script(refused)])), "caller")
    }))

  it.effect("a defect passes through", () =>
    Effect.gen(function*() {
      for (const strategy of ["sequential", "parallel"] as const) {
        const done = yield* run([script({ type: "defect", ms: 5 }), script(ok())], { strategy })
        assert.deepStrictEqual(startsOf(done), ["a0@0"])
        assert.isTrue(Exit.isFailure(done.exit) && Cause.hasDies(done.exit.cause))
      }
    }))
})

// ---------------------------------------------------------------------------------------------------------------------
// Hedging
// ---------------------------------------------------------------------------------------------------------------------

const parallel = { strategy: "parallel", hedgeAfterMs: 100 } as const
const endsOf = ({ log }: Run) => log.ended.map(({ at, how, name }) => `${name} ${how}@${at}`)

describe("hedging", () => {
  it.effect("the next candidate starts after the delay, the first success wins, the others are interrupted at once", () =>
    Effect.gen(function*() {
      const done = yield* run([script(ok(1_000)), script(hang), script(ok(50)), script(ok())], parallel)
      assert.deepStrictEqual(startsOf(done), ["a0@0", "a1@100", "a2@200"])
      assert.deepStrictEqual(new Set(endsOf(done)), new Set(["a2 ok@250", "a0 interrupted@250", "a1 interrupted@250"]))
      assert.deepStrictEqual([valueOf(done), done.at, done.exchange.model?.model], ["a2", 250, "a2"])
    }))

  it.effect("a first candidate that is quick enough is the only one", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(startsOf(yield* run([script(ok(99)), script(ok())], parallel)), ["a0@0"])
    }))

  it.effect("a failure starts the next candidate at once, and its delay begins anew", () =>
    Effect.gen(function*() {
      const done = yield* run([script(fails("transient", {}, 30)), script(ok(500)), script(ok())], parallel)
      assert.deepStrictEqual(startsOf(done), ["a0@0", "a1@30", "a2@130"])
      assert.strictEqual(valueOf(done), "a2")
    }))

  it.effect("a final error ends it", () =>
    Effect.gen(function*() {
      const done = yield* run([script(hang), script(fails("caller", {}, 50)), script(ok())], parallel)
      assert.deepStrictEqual([kindOf(done), done.at], ["caller", 150])
      assert.deepStrictEqual(endsOf(done), ["a1 failed@150", "a0 interrupted@150"])
    }))

  it.effect("the failure of the last one waits for those that still run", () =>
    Effect.gen(function*() {
      const done = yield* run([script(ok(1_000)), script(fails("protocol"))], parallel)
      assert.deepStrictEqual([valueOf(done), done.at], ["a0", 1_000])
    }))

  it.effect("fails with a provider's error when all have failed", () =>
    Effect.gen(function*() {
      const done = yield* run([script(fails("protocol")), script(fails("credential")), script(broken())], parallel)
      assert.strictEqual(kindOf(done), "credential")
      assert.deepStrictEqual(startsOf(done), ["a0@0", "a1@10", "a2@20"])
    }))

  it.effect("starts no more than the budget allows", () =>
    Effect.gen(function*() {
      const done = yield* run([script(hang), script(hang), script(ok())], { ...parallel, attempts: 2 })
      assert.deepStrictEqual([kindOf(done), startsOf(done)], ["total", ["a0@0", "a1@100"]])
    }))

  it.effect("contextLength goes on to larger models only", () =>
    Effect.gen(function*() {
      const done = yield* run(
        [sized(8_000, fails("contextLength")), sized(4_000, ok()), sized(16_000, ok())],
        parallel
      )
      assert.deepStrictEqual(startsOf(done), ["a0@0", "a2@10"])
    }))

  it.effect("all circuits open: the last is tried all the same", () =>
    Effect.gen(function*() {
      assert.strictEqual(valueOf(yield* run([script(broken()), script(broken())], parallel)), "a1")
    }))

  it.effect("learns its delay from the model's first tokens", () =>
    Effect.gen(function*() {
      const figures: ModelHealth = { samples: 20, errorRate: 0, p95FirstTokenMs: 400, durationMs: 9_000, inFlight: 0 }
      const both = [script(hang), script(ok())]
      const learned = (recent: ModelHealth, streamed: boolean) =>
        Effect.map(run(both, { strategy: "parallel" }, { recent: () => recent, streamed }), startsOf)
      assert.deepStrictEqual(yield* learned(figures, true), ["a0@0", "a1@400"])
      assert.deepStrictEqual(yield* learned(figures, false), ["a0@0", "a1@18000"])
      assert.deepStrictEqual(yield* learned({ ...figures, samples: 3 }, true), ["a0@0", "a1@2000"])
    }))

  it.effect("the one that was ready a moment too late is closed, the winner stays open", () =>
    Effect.gen(function*() {
      const open = new Set<string>()
      const exchange = yield* start("plain::a0", true)
      const scope = yield* Scope.make()
      const plan = planOf([script(), script(), script()], parallel)
      const ready = yield* Deferred.make<void>()
      const fiber = yield* runAttempts(exchange, plan, ({ model }) =>
        Effect.acquireRelease(
          Effect.sync(() => open.add(model.model)),
          () => Effect.sync(() => open.delete(model.model))
        ).pipe(
          Effect.andThen(Deferred.await(ready)),
          Effect.as(model.model)
        )).pipe(Scope.provide(scope), Effect.forkChild({ startImmediately: true }))
      yield* TestClock.adjust(200)
      assert.strictEqual(open.size, 3)
      yield* Deferred.succeed(ready, undefined)
      const winner = yield* Fiber.join(fiber)
      assert.deepStrictEqual([...open], [winner])
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(open.size, 0)
    }))

  it.effect("a slow farewell of one loser does not keep another one running", () =>
    Effect.gen(function*() {
      const exchange = yield* start("plain::a0", true)
      const plan = planOf([script(), script(), script()], parallel)
      const left: Array<string> = []
      const fiber = yield* runAttempts(exchange, plan, ({ model: { model } }) =>
        model === "a2" ?
          Effect.succeed(model) :
          Effect.onInterrupt(Effect.never, () =>
            Effect.andThen(
              Effect.sync(() => left.push(model)),
              Effect.sleep(5_000)
            ))).pipe(
          Effect.forkChild({ startImmediately: true })
        )
      yield* TestClock.adjust(200)
      assert.deepStrictEqual(left.toSorted(), ["a0", "a1"])
      yield* TestClock.adjust(5_000)
      assert.strictEqual(yield* Fiber.join(fiber), "a2")
    }))
})

describe("the caller leaves", () => {
  it.effect.each(["sequential", "parallel"] as const)(
    "%s: everything is interrupted",
    (strategy) =>
      Effect.gen(function*() {
        const exchange = yield* start("plain::a0", false)
        const scripts = [script(hang), script(hang), script(hang)]
        const plan = planOf(scripts, { strategy, hedgeAfterMs: 100 })
        const log: Log = { started: [], ended: [], held: 0 }
        const fiber = yield* Effect.forkChild(runAttempts(exchange, plan, attempts(exchange, plan, scripts, log)), {
          startImmediately: true
        })
        yield* TestClock.adjust(150)
        const running = strategy === "parallel" ? 2 : 1
        assert.strictEqual(log.held, running)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(log.held, 0)
        assert.deepStrictEqual(log.ended.map(({ how }) => how), Array.from({ length: running }, () => "interrupted"))
        yield* TestClock.adjust(10_000)
        assert.strictEqual(log.started.length, running, "and nothing starts afterwards")
      })
  )

  it.effect("during a pause: no attempt follows", () =>
    Effect.gen(function*() {
      const exchange = yield* start("plain::a0", false)
      const scripts = [script(fails("transient", {}, 0))]
      const plan = planOf(scripts)
      const log: Log = { started: [], ended: [], held: 0 }
      const fiber = yield* Effect.forkChild(runAttempts(exchange, plan, attempts(exchange, plan, scripts, log)), {
        startImmediately: true
      })
      yield* TestClock.adjust(10)
      yield* Fiber.interrupt(fiber)
      yield* TestClock.adjust(10_000)
      assert.strictEqual(log.started.length, 1)
    }))
})

// ---------------------------------------------------------------------------------------------------------------------
// Any script
// ---------------------------------------------------------------------------------------------------------------------

// All times but the deadline are multiples of ten, so that nothing happens in the same moment as the deadline.
const Tens = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 60 }))
const Kind = Schema.Literals([
  "transient",
  "quota",
  "protocol",
  "credential",
  "contextLength",
  "caller",
  "contentPolicy",
  "refused",
  "open",
  "opened"
])
const AnyOutcome = Schema.Union([
  Schema.Struct({ type: Schema.Literals(["ok", "hang", "defect"]), tens: Tens }),
  Schema.Struct({
    type: Kind,
    tens: Tens,
    retryAfterTens: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 200 })))
  })
])
const AnyCandidate = Schema.Struct({
  outcomes: Schema.Array(AnyOutcome).check(Schema.isMinLength(1), Schema.isMaxLength(3)),
  window: Schema.Literals([0, 8_000, 32_000])
})
const AnyCase = Schema.Struct({
  candidates: Schema.Array(AnyCandidate).check(Schema.isMinLength(1), Schema.isMaxLength(4)),
  attempts: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 6 })),
  totalTens: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 300 })),
  hedgeTens: Tens
})
type AnyCase = typeof AnyCase.Type

const outcomeOf = (outcome: typeof AnyOutcome.Type): Outcome => {
  const ms = outcome.tens * 10
  switch (outcome.type) {
    case "ok":
    case "defect":
      return { type: outcome.type, ms }
    case "hang":
      return hang
    case "refused":
      return fails("caller", { refused: true }, ms)
    case "open":
      return fails("transient", { breaker: "open" }, ms)
    case "opened":
      return fails("transient", { breaker: "opened" }, ms)
    default:
      return fails(
        outcome.type,
        "retryAfterTens" in outcome && outcome.retryAfterTens !== undefined
          ? { retryAfterMs: outcome.retryAfterTens * 10 }
          : {},
        ms
      )
  }
}

const scriptsOf = ({ candidates }: AnyCase): ReadonlyArray<Scripted> =>
  candidates.map(({ outcomes, window }) => ({
    outcomes: outcomes.map(outcomeOf),
    ...(window === 0 ? {} : { contextWindow: window })
  }))

const limitsOf = ({ attempts, hedgeTens, totalTens }: AnyCase) => ({
  attempts,
  hedgeAfterMs: hedgeTens * 10,
  timeouts: { connect: 1, firstToken: 1, idle: 1, total: totalTens * 10 + 5 }
})

/** The rules of the sequential strategy, told as plainly as possible: who serves, or nobody, and which attempts are made. */
const expected = (scripts: ReadonlyArray<Scripted>, budget: number, total: number) => {
  const attempts: Array<string> = []
  const turns = scripts.map(() => 0)
  let queue = scripts.map((_, index) => index)
  let now = 0
  let calls = 0
  let retries = 0
  for (let at = queue.shift(); at !== undefined;) {
    const { contextWindow, outcomes } = scripts[at] ?? assert.fail()
    const turn = turns[at] ?? 0
    turns[at] = turn + 1
    const outcome = outcomes[Math.min(turn, outcomes.length - 1)] ?? hang
    attempts.push(`a${at}@${now}`)
    const error = outcome.type === "fail" ? outcome.error : undefined
    const forced = error?.breaker === "open" && queue.length === 0 && calls === 0
    const length = forced ? 0 : outcome.type === "hang" ? Infinity : outcome.ms
    const isLast = queue.length === 0 || calls + 1 === budget
    // Who may be followed has half of what is left.
    const share = isLast ? Infinity : Math.max(1, Math.round((total - now) / 2))
    if (length > share && share < total - now) {
      now += share
      calls++
      retries = 0
      at = queue.shift()
      continue
    }
    if (now + length > total) return { served: undefined, attempts, at: total }
    now += length
    if (forced || outcome.type === "ok") return { served: `a${at}`, attempts, at: now }
    if (error === undefined) return { served: undefined, attempts, at: now }
    const wasCall = error.breaker !== "open" && error.refused !== true
    if (wasCall) calls++
    if (wasCall && (error.kind === "caller" || error.kind === "contentPolicy")) {
      return { served: undefined, attempts, at: now }
    }
    if (error.kind === "contextLength" && contextWindow !== undefined) {
      queue = queue.filter((other) => (scripts[other]?.contextWindow ?? Infinity) > contextWindow)
    }
    if (calls >= budget) return { served: undefined, attempts, at: now }
    const hint = error.retryAfterMs ?? 0
    const pause = Math.max(Math.min(100 * 2 ** retries, 1_000), hint)
    const retried = wasCall && error.breaker === undefined && (error.kind === "transient" || error.kind === "quota") &&
      budget - calls > queue.length && hint <= 1_200 && now + pause < total
    if (retried) {
      retries++
      now += pause
    } else {
      retries = 0
      at = queue.shift()
    }
  }
  return { served: undefined, attempts, at: now }
}

const isCall = (attempt: { readonly outcome: Outcome; readonly last: boolean }) =>
  attempt.outcome.type !== "fail" || attempt.last ||
  (attempt.outcome.error.breaker !== "open" && attempt.outcome.error.refused !== true)

/** The attempts that really went out. */
const callsOf = (scripts: ReadonlyArray<Scripted>, { log }: Run): number => {
  const turns = new Map<string, number>()
  return log.started.filter(({ last, name }) => {
    const turn = turns.get(name) ?? 0
    turns.set(name, turn + 1)
    const outcomes = scripts[Number(name.slice(1))]?.outcomes ?? []
    const outcome = outcomes[Math.min(turn, outcomes.length - 1)] ?? hang
    return isCall({ outcome, last: last && outcome.type === "fail" && outcome.error.breaker === "open" })
  }).length
}

/** What holds for every script under both strategies; `run` checks itself that there is one result and nothing is left. */
const holdsFor = (anyCase: AnyCase, scripts: ReadonlyArray<Scripted>, done: Run): void => {
  assert.isAtMost(callsOf(scripts, done), anyCase.attempts, "no more calls than the budget")
  assert.isAtMost(done.at, limitsOf(anyCase).timeouts.total, "no later than the deadline")
  assert.strictEqual(done.log.held, 0)
}

const runs = { arbitrary: { runs: 400 } }

describe("any script", () => {
  it.effect.prop(
    "one after another: keeps to the rules, told in another way",
    [AnyCase],
    ([anyCase]) =>
      Effect.gen(function*() {
        const scripts = scriptsOf(anyCase)
        const limits = limitsOf(anyCase)
        const done = yield* run(scripts, limits)
        holdsFor(anyCase, scripts, done)
        const model = expected(scripts, limits.attempts, limits.timeouts.total)
        assert.deepStrictEqual(startsOf(done), model.attempts)
        assert.strictEqual(Exit.isSuccess(done.exit) ? done.exit.value : undefined, model.served)
        assert.strictEqual(done.at, model.at)
      }),
    runs
  )

  it.effect.prop(
    "hedged: within budget and deadline, one result, nothing left",
    [AnyCase],
    ([anyCase]) =>
      Effect.gen(function*() {
        const scripts = scriptsOf(anyCase)
        const done = yield* run(scripts, { ...limitsOf(anyCase), strategy: "parallel" })
        holdsFor(anyCase, scripts, done)
        const won = done.log.ended.filter(({ how }) => how === "ok").map(({ name }) => name)
        if (Exit.isSuccess(done.exit)) assert.include(won, done.exit.value)
        else {
          assert.isTrue(
            won.length === 0 || Cause.hasDies(done.exit.cause) ||
              ["caller", "contentPolicy", "total"].includes(kindOf(done)),
            "a success is lost only to a final failure of the same moment"
          )
        }
      }),
    runs
  )

  it.effect.prop(
    "hedged: somebody serves if anybody can",
    [
      Schema.Array(Schema.Struct({ ok: Schema.Boolean, tens: Tens })).check(
        Schema.isMinLength(2),
        Schema.isMaxLength(4)
      ),
      Tens
    ],
    ([candidates, hedgeTens]) =>
      Effect.gen(function*() {
        const scripts = candidates.map(({ ok: serves, tens }) =>
          script(serves ? ok(tens * 10) : fails("transient", {}, tens * 10))
        )
        const done = yield* run(scripts, { strategy: "parallel", hedgeAfterMs: hedgeTens * 10 })
        assert.strictEqual(Exit.isSuccess(done.exit), candidates.some(({ ok }) => ok))
      })
  )
})

it.effect("the request's clock is the test's", () =>
  Effect.gen(function*() {
    const before = yield* Clock.currentTimeMillis
    const done = yield* run([script(ok(1_234))])
    assert.deepStrictEqual([done.at, (yield* Clock.currentTimeMillis) - before], [1_234, 60_006])
  }))
