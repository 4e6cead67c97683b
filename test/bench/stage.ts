/**
 * `npm run bench:stage`: what the attempt stage costs a request whose first attempt succeeds: budget, timers, health, counts
 * and reports around the call of a provider. In one process, in rounds that alternate, the same requests are resolved and
 * then either go through the stage or call the provider directly. The CPU is the process's own account; of all rounds the
 * cheapest counts, since a busy machine only ever adds.
 *
 * A provider that answers at once shows the bare cost; one that takes a turn of the loop shows a timer set and taken back as
 * well. The breaker, which stands in Outbound, is measured by itself. `--quick` takes a fifteenth of the time, `--only TEXT`
 * takes the ways whose names hold the text, for a profiler to look at.
 */
import { Cause, Effect, Layer, Scope, Stream } from "effect"
import { CircuitBreaker } from "effect/persistence"
import { parseArgs } from "node:util"
import { attemptChat, attemptStream, type AttemptWatch } from "../../src/gateway/Attempt.ts"
import { AttemptCounts } from "../../src/gateway/AttemptCounts.ts"
import { runAttempts, type Turn } from "../../src/gateway/Attempts.ts"
import type { ChunkPull } from "../../src/gateway/ChunkPull.ts"
import { chatChunks, chatOperation } from "../../src/gateway/ChatOperation.ts"
import { type Exchange, start } from "../../src/gateway/Exchange.ts"
import { defaultAttempts, defaultRetry, defaultTimeouts, Gateway } from "../../src/gateway/Gateway.ts"
import { Health } from "../../src/gateway/Health.ts"
import type { Candidate, Plan } from "../../src/gateway/Plan.ts"
import * as Registries from "../../src/gateway/Registries.ts"
import * as Resolution from "../../src/gateway/Resolution.ts"
import * as ModelRegistry from "../../src/modules/modelRegistry/Registry.ts"
import * as Circuits from "../../src/modules/outbound/Circuits.ts"
import type { ChatRequest } from "../../src/sdk/Chat.ts"
import { type ChatCall, layer as providerLayer, type Provider } from "../../src/sdk/Provider.ts"
import { type StreamObserver, watch } from "../../src/gateway/StreamWatch.ts"
import { TypeRegistry } from "../../src/sdk/TypeRegistry.ts"
import { answers, finish, plain, request, says, silence, usage } from "../gateway/PlainProvider.ts"

const { values } = parseArgs({
  options: { quick: { type: "boolean", default: false }, only: { type: "string", default: "" } }
})
const { quick } = values
const rounds = quick ? 8 : 30
const requests = quick ? 5_000 : 20_000

const chunks = [silence, says("Hello"), says(" there"), finish, usage]

/** One turn of the loop, as the fastest of networks would take. */
const turn = Effect.callback<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})
const answer = answers("Hello")
const providers: ReadonlyArray<Provider> = [
  plain({ slug: "plain", chat: () => Effect.succeed(answer), streamChat: () => Stream.fromArray(chunks) }),
  plain({
    slug: "waits",
    chat: () => Effect.as(turn, answer),
    streamChat: () => Stream.fromArray(chunks).pipe(Stream.onStart(turn))
  })
]

const limits: Resolution.ResolutionOptions = {
  timeouts: defaultTimeouts,
  attempts: defaultAttempts,
  retry: defaultRetry
}

/** Pulls to the end. */
const drain = (pull: ChunkPull<unknown>): Effect.Effect<void, unknown> =>
  Effect.catchIf(Effect.forever(pull, { disableYield: true }), Cause.isDone, () => Effect.void)

/** One way to serve a request. */
interface Way {
  readonly name: string
  /** The same without the stage; absent for what is only shown beside. */
  readonly without?: string
  readonly run: Effect.Effect<unknown, unknown>
}

const callOf = (
  { messages, model: name }: ChatRequest,
  { model }: Candidate,
  { force }: Turn
): ChatCall => ({
  request: { model: name, messages },
  model,
  connectTimeout: limits.timeouts.connect,
  force
})

const only: Turn = { last: true, force: true }

const ways = Effect.gen(function*() {
  const gateway = yield* Gateway
  const resolve = yield* Resolution.make(limits)
  const health = yield* Health
  const watched: AttemptWatch = { health, counts: yield* AttemptCounts, silent: () => Effect.void }
  const circuits = yield* Circuits.make({})

  const resolved = Effect.fnUntraced(function*(asked: ChatRequest, streamed: boolean) {
    const exchange = yield* start(asked.model, streamed)
    const plan = yield* resolve(exchange, chatOperation, asked, {})
    exchange.preferred = plan.candidates[0].model
    return { exchange, plan }
  })
  const direct = (asked: ChatRequest) =>
    Effect.flatMap(resolved(asked, false), ({ plan }) => {
      const [first] = plan.candidates
      return first.provider.chat?.(callOf(asked, first, only)) ?? Effect.die("no chat")
    })
  const staged = (asked: ChatRequest) =>
    Effect.flatMap(resolved(asked, false), ({ exchange, plan }) =>
      runAttempts(
        exchange,
        plan,
        (candidate, turn) =>
          attemptChat(exchange, candidate, callOf(asked, candidate, turn), plan.timeouts, watched, !turn.last),
        health.of
      ))
  const directStream = (asked: ChatRequest) =>
    Effect.flatMap(resolved(asked, true), ({ plan }) => {
      const [first] = plan.candidates
      return Stream.runDrain(first.provider.streamChat?.(callOf(asked, first, only)) ?? Stream.die("no chat"))
    })
  const unobserved: StreamObserver = {
    firstContent: () => undefined,
    succeeded: () => undefined,
    failed: () => undefined,
    left: () => undefined
  }
  const watchedStream = (asked: ChatRequest) =>
    Effect.flatMap(resolved(asked, true), ({ exchange, plan }) => {
      const [first] = plan.candidates
      const stream = first.provider.streamChat?.(callOf(asked, first, only)) ?? Stream.die("no chat")
      return Effect.scoped(Effect.flatMap(Effect.scope, (scope) =>
        Effect.flatMap(
          watch(first.provider.slug, chatChunks, stream, plan.timeouts, exchange.elapsed(), scope, unobserved),
          ({ pull }) => drain(pull)
        )))
    })
  const opened = (asked: ChatRequest, exchange: Exchange, plan: Plan) =>
    runAttempts(
      exchange,
      plan,
      (candidate, turn) => attemptStream(exchange, candidate, callOf(asked, candidate, turn), plan.timeouts, watched),
      health.of
    )
  const stagedStream = (asked: ChatRequest) =>
    Effect.flatMap(resolved(asked, true), ({ exchange, plan }) =>
      Effect.scoped(Effect.flatMap(
        opened(asked, exchange, plan),
        ({ pull }) => drain(pull)
      )))

  const found: Array<Way> = []
  for (
    const [says, asked] of [
      ["at once", { ...request, model: "plain::m" }],
      ["after a turn", { ...request, model: "waits::m" }],
      ["after a turn, with a fallback", { ...request, model: "waits::m", fallback: { models: ["plain::m"] } }]
    ] as ReadonlyArray<readonly [string, ChatRequest]>
  ) {
    found.push(
      { name: `whole, ${says}: direct`, run: direct(asked) },
      { name: `whole, ${says}: stage`, without: `whole, ${says}: direct`, run: staged(asked) },
      { name: `stream, ${says}: direct`, run: directStream(asked) },
      { name: `stream, ${says}: timers alone`, without: `stream, ${says}: direct`, run: watchedStream(asked) },
      { name: `stream, ${says}: stage`, without: `stream, ${says}: direct`, run: stagedStream(asked) },
      { name: `whole, ${says}: gateway.chat`, run: gateway.chat(asked) }
    )
  }
  const circuit = circuits.get("plain", "chat")
  found.push({
    name: "breaker: admit and settle",
    run: Effect.suspend(() =>
      Effect.flatMap(Scope.provide(circuit.admit(false), Scope.makeUnsafe()), (permit) => permit.settle("Success"))
    )
  })
  return found
})

const measure = Effect.fnUntraced(function*(run: Effect.Effect<unknown, unknown>) {
  const before = process.cpuUsage()
  for (let at = 0; at < requests; at++) yield* run
  const { system, user } = process.cpuUsage(before)
  return (user + system) / requests
})

const program = Effect.gen(function*() {
  const all = (yield* ways).filter(({ name }) => name.includes(values.only))
  const best = new Map<string, number>()
  for (let round = 0; round < rounds; round++) {
    for (const { name, run } of all) {
      const cost = yield* measure(run)
      // The first round compiles.
      if (round > 0) best.set(name, Math.min(best.get(name) ?? Infinity, cost))
    }
  }
  const of = (name: string) => best.get(name) ?? NaN
  process.stdout.write(
    `Node ${process.version}; ${requests} requests a round, the best of ${rounds - 1}; CPU µs a request\n`
  )
  for (const { name, without } of all) {
    const more = without === undefined ? "" : `   beyond direct: ${(of(name) - of(without)).toFixed(2)}`
    process.stdout.write(`  ${name.padEnd(50)} ${of(name).toFixed(2).padStart(7)}${more}\n`)
  }
})

const layer = Gateway.layer(limits).pipe(
  Layer.provideMerge(ModelRegistry.layer()),
  Layer.provideMerge(
    Layer.mergeAll(Layer.empty, ...providers.map((provider) => providerLayer(Effect.succeed(provider))))
  ),
  Layer.provideMerge(Layer.mergeAll(Registries.layer, TypeRegistry.layerEmpty, CircuitBreaker.layerStoreMemory())),
  Layer.orDie
)

await Effect.runPromise(Effect.provide(program, layer))
