/**
 * Rate limits that many replicas share through Redis. Everything about one request is one script, and so atomic and one
 * round trip; what runs at the same time shares a write to the socket, because node-redis sends at the end of a turn of
 * the event loop what has come up in it.
 *
 * Redis from version 5 on, as one server (with replicas, or behind a proxy). `NodeRedis` is no cluster client; all keys
 * carry one hash tag all the same, so that a proxy in front of a cluster finds those of a script in one slot. What Redis
 * evicts or forgets is a full bucket, so that `maxmemory-policy` should be `noeviction`.
 *
 * The client is best made with `disableOfflineQueue: true`: what cannot be sent then fails at once, and does not wait in
 * the client to be done long after the request has been answered; and with `commandOptions: { timeout: 0 }`, since a timer
 * of the client's for each command beside ours is a third of the CPU that a command costs (17 µs against 11).
 */
import { Effect, type Exit, Fiber, identity, Layer } from "effect"
import { Redis } from "effect/persistence"
import { randomUUID } from "node:crypto"
import { fail, type GatewayError, StoreUnavailable } from "../../sdk/GatewayError.ts"
import { type ConcurrencyDemand, type RateDemand, type RateLevel, RateLimits } from "../../sdk/RateLimits.ts"
import { correction, keptKey, level, noPlace, refillMs, refusedAtOnce, Shortage } from "./Demands.ts"
import { Outage } from "./Outage.ts"
import * as Scripts from "./RedisScripts.ts"

/** Options of the Layer. */
export interface Options {
  /** What all keys in Redis begin with; default `llm-gateway:`. Gateways with the same prefix share their limits. */
  readonly prefix?: string
  /** Whether requests pass uncounted while Redis does not answer, or fail with `store_unavailable`. */
  readonly onFailure: "open" | "closed"
  /** The longest that a request waits for Redis, ms; default 250. */
  readonly commandTimeout?: number
}

/** Corrections and departures that may wait for Redis at the same time. */
const maxInBackground = 10_000
/** The part of a wait that begins when the rest is over, ms. */
const maxLastStepMs = 50
/** Places whose departure could not be told and is told later; others are free when their lease is over. */
const maxOwed = 10_000
/** Departures that are made up for with one request. */
const owedAtOnce = 100

/** Redis did not do what it was asked, or not in time; the problem is for the log. */
class Unanswered {
  readonly _tag = "Unanswered"
  readonly problem: string
  constructor(problem: string) {
    this.problem = problem
  }
}

type Command = Effect.Effect<unknown, Redis.RedisError>
type Outcome = Exit.Exit<unknown, Redis.RedisError>
type Undo = (outcome: Outcome) => void
type Wait = <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E>

/** Where commands are not even tried, because Redis failed a moment ago. */
const spared = new Unanswered("")

/** Places of one request. */
interface Lease {
  readonly name: string
  readonly keys: ReadonlyArray<string>
  /** Unix ms. */
  readonly until: number
}

const problemOf = (error: Redis.RedisError): string => {
  const text = error.cause instanceof Error ? error.cause.message || error.cause.name : String(error.cause)
  return text.slice(0, 200)
}

const noScript = (error: Redis.RedisError): boolean => problemOf(error).startsWith("NOSCRIPT")

/** For what is done in the background, which nobody interrupts, and is repeated or given up. */
const uninterrupted: Wait = identity
const nothing: Undo = () => {}

/** A script's answer as numbers; undefined where it is none of ours. */
const numbers = (reply: unknown, length: number): ReadonlyArray<number> | undefined => {
  const values = Array.isArray(reply) ? reply.map(Number) : [Number(reply)]
  return values.length === length && !values.some(Number.isNaN) ? values : undefined
}

const foreignAnswer = new Error("Redis answered a script with what the script does not say")

const unavailable = fail(
  new StoreUnavailable({
    message: "the store of the rate limits does not answer, and no request passes uncounted; try again in a moment",
    store: "rate limits"
  })
)

const make = Effect.fnUntraced(function*(options: Options) {
  const redis = yield* Redis.Redis
  const fork = Effect.runForkWith(yield* Effect.context())
  const { commandTimeout = 250, onFailure } = options
  const lastStepMs = Math.min(maxLastStepMs, commandTimeout / 2)
  const prefix = `${options.prefix ?? "llm-gateway:"}{limits}:`
  const isOpen = onFailure === "open"
  const outage = new Outage({
    consequence: isOpen ? "and requests pass without being counted" : "and requests are refused"
  })
  /** Corrections and departures that are on their way. */
  const background = new Set<Fiber.Fiber<unknown, unknown>>()
  /** Departures that could not be told. */
  const owed = new Map<string, Lease>()
  const replica = randomUUID()
  let leases = 0
  /** Set when the connection may be gone. Places that are left after that are free when their lease is over. */
  let isClosed = false

  const inBackground = (effect: Effect.Effect<unknown>): boolean => {
    if (background.size >= maxInBackground) return false
    const fiber = fork(effect)
    background.add(fiber)
    fiber.addObserver(() => background.delete(fiber))
    return true
  }

  const run = (
    script: Scripts.Script,
    keys: ReadonlyArray<string>,
    args: ReadonlyArray<string>
  ): Command => {
    const count = String(keys.length)
    return Effect.catchIf(
      redis.send("EVALSHA", script.sha1, count, ...keys, ...args),
      noScript,
      () => redis.send("EVAL", script.lua, count, ...keys, ...args)
    )
  }

  /**
   * Sends a command and waits for the answer, but not for long. `undo` is told of the outcome where nobody uses it: because
   * it came too late, because the caller has gone, or because it is an error, after which it is not known what was done.
   * `wait` is what makes the wait interruptible; the rest has to be kept from interruption by who calls.
   *
   * The timer is Node's own: whatever clock the program has, the wait is for a real socket.
   */
  const ask = (command: Command, wait: Wait, undo: Undo): Effect.Effect<unknown, Unanswered> =>
    Effect.suspend(() => {
      let isWaiting = true
      let outcome: Outcome | undefined
      let timer: NodeJS.Timeout | undefined
      const answer = Effect.callback<unknown, Unanswered>((resume) => {
        const giveUp = () => {
          isWaiting = false
          resume(Effect.fail(new Unanswered(`no answer within ${commandTimeout} ms`)))
        }
        // In two steps: after a pause of the whole process the first is over before the answer has been read, or even the
        // question sent, and then the second is time for that.
        // @effect-diagnostics-next-line globalTimersInEffect:off
        timer = setTimeout(() => {
          timer = setTimeout(giveUp, lastStepMs)
        }, commandTimeout - lastStepMs)
        fork(command).addObserver((exit) => {
          if (!isWaiting) return undo(exit)
          clearTimeout(timer)
          outcome = exit
          if (exit._tag === "Failure") undo(exit)
          resume(Effect.mapError(exit, (error) => new Unanswered(problemOf(error))))
        })
      })
      return Effect.onInterrupt(wait(answer), () =>
        Effect.sync(() => {
          isWaiting = false
          clearTimeout(timer)
          if (outcome?._tag === "Success") undo(outcome)
        }))
    })

  /** Asks where Redis is thought to answer, and keeps account of whether it does. */
  const guarded = (command: Command, wait: Wait, undo: Undo): Effect.Effect<unknown, Unanswered> =>
    Effect.clockWith((clock) => {
      const now = clock.currentTimeMillisUnsafe()
      if (!outage.mayAsk(now)) return Effect.fail(spared)
      if (owed.size > 0) tellOwed(now)
      const { era } = outage
      return Effect.matchEffect(ask(command, wait, undo), {
        onSuccess: (reply) => Effect.as(outage.answered(clock.currentTimeMillisUnsafe(), era), reply),
        onFailure: (error) =>
          Effect.andThen(
            outage.failed(clock.currentTimeMillisUnsafe(), era, error.problem),
            Effect.fail(error)
          )
      })
    })

  /** What becomes of a request that Redis says nothing about. */
  const undecided = <A>(passing: A): Effect.Effect<A, GatewayError> =>
    Effect.clockWith((clock) =>
      Effect.andThen(
        outage.requestMissed(clock.currentTimeMillisUnsafe()),
        isOpen ? Effect.succeed(passing) : Effect.fail(unavailable)
      )
    )

  // -------------------------------------------------------------------------------------------------------------------
  // Buckets
  // -------------------------------------------------------------------------------------------------------------------

  const bucketCommand = (
    demands: ReadonlyArray<RateDemand>,
    mode: "take" | "correct",
    amountOf: (demand: RateDemand) => number
  ): Command => {
    const keys: Array<string> = []
    const args: Array<string> = [mode === "take" ? "1" : "0"]
    for (const demand of demands) {
      // The end keeps the keys of a user named `a:refill` apart from those of a user named `a`.
      const key = `${prefix}${keptKey(demand.key)}:bucket`
      keys.push(key, `${key}:refill`)
      args.push(String(amountOf(demand)), String(demand.limit), String(refillMs(demand)))
    }
    return run(Scripts.take, keys, args)
  }

  /** Sends a correction; what becomes of it is nobody's concern but the log's. */
  const correctBy = (send: Effect.Effect<unknown, Unanswered>): Effect.Effect<void> =>
    Effect.clockWith((clock) => {
      if (isClosed) return Effect.void
      const missed = () => outage.correctionMissed(clock.currentTimeMillisUnsafe())
      return inBackground(Effect.catch(send, missed)) ? Effect.void : missed()
    })

  const correct = (demands: ReadonlyArray<RateDemand>): Effect.Effect<void> => {
    const needed = demands.filter((demand) => correction(demand) !== 0)
    return needed.length === 0
      ? Effect.void
      : correctBy(guarded(bucketCommand(needed, "correct", correction), uninterrupted, nothing))
  }

  /** Gives back what was taken for nobody. Asks even in an outage, because it was Redis that has just said so. */
  const giveBack = (demands: ReadonlyArray<RateDemand>): Effect.Effect<void> =>
    correctBy(ask(bucketCommand(demands, "correct", (demand) => -demand.amount), uninterrupted, nothing))

  const amount = (demand: RateDemand) => demand.amount

  const levels = (
    demands: ReadonlyArray<RateDemand>,
    reply: unknown
  ): Effect.Effect<ReadonlyArray<RateLevel>, GatewayError> => {
    const values = numbers(reply, 1 + demands.length * 3)
    if (values === undefined) return Effect.die(foreignAnswer)
    const shortage = new Shortage()
    const levels = demands.map((demand, index) => {
      const [isShort = 0, tokens = 0, elapsedMs = 0] = values.slice(1 + index * 3, 4 + index * 3)
      if (isShort === 1) shortage.note(demand, tokens, elapsedMs)
      return level(demand, tokens, elapsedMs)
    })
    const { error } = shortage
    return error === undefined ? Effect.succeed(levels) : Effect.fail(error)
  }

  const take = (demands: ReadonlyArray<RateDemand>): Effect.Effect<ReadonlyArray<RateLevel>, GatewayError> => {
    if (demands.length === 0) return Effect.succeed([])
    const refusal = refusedAtOnce(demands)
    if (refusal !== undefined) return refusal instanceof RangeError ? Effect.die(refusal) : Effect.fail(refusal)
    const undo: Undo = (outcome) => {
      const isTaken = outcome._tag === "Success" && numbers(outcome.value, 1 + demands.length * 3)?.[0] === 1
      if (isTaken) fork(giveBack(demands))
    }
    return Effect.uninterruptibleMask((restore) =>
      Effect.matchEffect(guarded(bucketCommand(demands, "take", amount), restore, undo), {
        onSuccess: (reply) => levels(demands, reply),
        onFailure: () => undecided<ReadonlyArray<RateLevel>>([])
      })
    )
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Places
  // -------------------------------------------------------------------------------------------------------------------

  const leaveCommand = ({ keys, name }: Lease): Command =>
    redis.send("EVAL", Scripts.leave, String(keys.length), ...keys, name)

  const owe = (lease: Lease): void => {
    if (owed.size < maxOwed) owed.set(lease.name, lease)
  }

  /** Sent at once, so that who comes next finds the place free. That it is heard says nothing of whether Redis takes writes. */
  const leave = (lease: Lease): Effect.Effect<void> =>
    Effect.clockWith((clock) => {
      if (isClosed) return Effect.void
      const { era } = outage
      const left = Effect.catch(ask(leaveCommand(lease), uninterrupted, nothing), ({ problem }) => {
        owe(lease)
        return outage.failed(clock.currentTimeMillisUnsafe(), era, problem)
      })
      if (outage.isOn || !inBackground(left)) owe(lease)
      return Effect.void
    })

  /** Tells of departures that could not be told of before. */
  const tellOwed = (now: number): void => {
    for (const lease of Array.from(owed.values()).slice(0, owedAtOnce)) {
      owed.delete(lease.name)
      if (lease.until <= now) continue
      const owing = () => Effect.sync(() => owe(lease))
      if (!inBackground(Effect.catch(ask(leaveCommand(lease), uninterrupted, nothing), owing))) owe(lease)
    }
  }

  const enter = (
    demands: ReadonlyArray<ConcurrencyDemand>,
    leaseMs: number,
    entered: (leave: Effect.Effect<void>) => void,
    wait: Wait
  ): Effect.Effect<void, GatewayError> =>
    Effect.clockWith((clock) => {
      const lease: Lease = {
        name: `${replica}:${(leases++).toString(36)}`,
        keys: demands.map(({ key }) => `${prefix}${keptKey(key)}:places`),
        until: clock.currentTimeMillisUnsafe() + leaseMs
      }
      const limits = demands.map(({ limit }) => String(limit))
      const command = run(Scripts.enter, lease.keys, [String(leaseMs), lease.name, ...limits])
      const undo: Undo = (outcome) => {
        if (outcome._tag === "Failure") owe(lease)
        else if (numbers(outcome.value, 1)?.[0] === 0) fork(leave(lease))
      }
      return Effect.matchEffect(guarded(command, wait, undo), {
        onSuccess: (reply) => {
          const refused = numbers(reply, 1)?.[0]
          if (refused === 0) {
            entered(leave(lease))
            return Effect.void
          }
          const demand = demands[(refused ?? 0) - 1]
          return demand === undefined ? Effect.die(foreignAnswer) : Effect.fail(noPlace(demand))
        },
        onFailure: () => undecided(undefined)
      })
    })

  // What is on its way goes out before the connection is closed; each waits for at most the command's timeout.
  yield* Effect.addFinalizer(() =>
    Effect.map(Fiber.awaitAll(Array.from(background)), () => {
      isClosed = true
    })
  )

  return RateLimits.of({
    take,
    correct,
    occupy: (demands, leaseMs, entered) =>
      demands.length === 0
        ? Effect.void
        : Effect.uninterruptibleMask((restore) => enter(demands, leaseMs, entered, restore))
  })
})

/** Rate limits on the Redis that is provided. */
export const layer = (options: Options): Layer.Layer<RateLimits, never, Redis.Redis> =>
  Layer.effect(RateLimits, make(options))
