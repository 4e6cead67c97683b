/**
 * Realtime sessions: the way of one through the gateway.
 *
 * ```
 * validate -> interceptors (pre) -> resolve -> admission -> attempts until a connection stands -> session -> account
 * ```
 *
 * What fails until the connection stands is an ordinary error, and fails over; the caller is connected after that. From then on
 * each response is admitted and accounted for by itself (`RealtimeCharges.ts`).
 */
import { Deferred, Effect, Exit, Queue, type Scope } from "effect"
import type { Caller } from "../../sdk/Caller.ts"
import { fail, type GatewayError, ProviderTimeout } from "../../sdk/GatewayError.ts"
import { modelId, type ModelInfo } from "../../sdk/Model.ts"
import type { ModelRegistry } from "../../sdk/ModelRegistry.ts"
import type { RealtimeChannel, RealtimeRequest, RealtimeUpstream } from "../../sdk/Realtime.ts"
import { attemptConnect, unsupported } from "../Attempt.ts"
import { runAttempts } from "../Attempts.ts"
import type { Exchange } from "../Exchange.ts"
import type { AttemptError } from "../Failure.ts"
import { once } from "../Finishing.ts"
import { after, failed, type Pipeline, settled, waited } from "../Pipeline.ts"
import type { Candidate } from "../Plan.ts"
import * as Preparation from "../Preparation.ts"
import { RealtimeCharges } from "./RealtimeCharges.ts"
import { defaultMaxFrameBytes, type RealtimeOptions } from "./RealtimeOptions.ts"
import { RealtimeInterception } from "./RealtimeInterception.ts"
import { sessionOperation } from "./RealtimeOperation.ts"
import type { Work } from "./RealtimeLane.ts"
import { RealtimeSession, type SessionEnd } from "./RealtimeSession.ts"

const defaultMaxSession = 60 * 60_000
const defaultIdle = 5 * 60_000
const defaultPing = 20_000

/** A session whose provider is connected, and whose caller is not yet. */
export interface OpenedSession {
  /**
   * Connects the caller, and returns when the session is over and both connections are closed or closing. Interrupting it ends
   * the session as if the caller had gone.
   */
  readonly run: (caller: RealtimeChannel) => Effect.Effect<void>
  /** The service stops: ends the session when the response that is under way is over. */
  readonly stop: () => void
  /** The service's time is up: ends the session now. */
  readonly cut: () => void
}

/** Opens a session. The scope is the session's life. */
export type OpenSession = (
  request: RealtimeRequest,
  exchange: Exchange
) => Effect.Effect<OpenedSession, GatewayError, Scope.Scope>

/** Who asks for sessions. */
interface Options extends Required<RealtimeOptions> {
  readonly pipeline: Pipeline
  readonly models: ModelRegistry["Service"]
}

const callerGone: SessionEnd = {
  toCaller: { code: 1006, reason: "" },
  toProvider: { code: 1001, reason: "the caller has gone" }
}

/** Ends a session in which nobody says anything, or one side does not read. */
const watchSilence = (session: RealtimeSession, provider: string, idleMs: number): Effect.Effect<never> => {
  const step = idleMs / 4
  let silent = 0
  let stuck = 0
  const silence = new ProviderTimeout({
    message: `nothing was said in the session within ${idleMs} ms (timeout: idle)`,
    provider,
    phase: "idle",
    limitMs: idleMs
  })
  const slow = new ProviderTimeout({
    message: `one side of the session has not read what was sent within ${idleMs} ms (timeout: idle)`,
    provider,
    phase: "idle",
    limitMs: idleMs
  })
  return Effect.forever(Effect.andThen(
    Effect.sleep(step),
    Effect.sync(() => {
      silent = session.takeActivity() ? 0 : silent + 1
      stuck = session.isStuck ? stuck + 1 : 0
      if (stuck >= 4) session.fail(fail(slow))
      else if (silent >= 4) session.fail(fail(silence), 1001)
    })
  ))
}

const tooLong = (provider: string, limitMs: number) =>
  fail(
    new ProviderTimeout({
      message: `a session lasts at most ${limitMs} ms (timeout: total); connect again`,
      provider,
      phase: "total",
      limitMs
    })
  )

/** Makes the way of sessions through the stages of a gateway. */
export const make = (
  pipeline: Pipeline,
  models: ModelRegistry["Service"],
  asked: RealtimeOptions = {}
): OpenSession => {
  const options: Options = {
    pipeline,
    models,
    maxSessionMs: asked.maxSessionMs ?? defaultMaxSession,
    idleMs: asked.idleMs ?? defaultIdle,
    pingMs: asked.pingMs ?? defaultPing,
    maxFrameBytes: asked.maxFrameBytes ?? defaultMaxFrameBytes
  }
  const operation = sessionOperation(options.maxSessionMs)
  const prepare = Preparation.make(pipeline, operation)
  const { admission, began, finish, health, watched } = pipeline

  const connected = Effect.fnUntraced(function*(
    request: RealtimeRequest,
    exchange: Exchange
  ): Effect.fn.Return<OpenedSession, GatewayError | AttemptError, Scope.Scope> {
    const { active, bindings, context, plan } = yield* prepare(exchange, request)
    const connect = (candidate: Candidate, force: boolean): Effect.Effect<
      readonly [RealtimeUpstream, Candidate],
      AttemptError,
      Scope.Scope
    > => {
      const { realtime } = candidate.provider
      if (realtime === undefined) return Effect.fail(unsupported(candidate, "realtime sessions"))
      const { maxFrameBytes } = options
      const { connect: connectTimeout } = plan.timeouts
      const opening = realtime({ request, model: candidate.model, connectTimeout, maxFrameBytes, force })
      return Effect.map(
        attemptConnect(exchange, candidate, opening, plan.timeouts, watched),
        (upstream) => [upstream, candidate] as const
      )
    }
    const [upstream, candidate] = yield* waited(
      exchange,
      runAttempts(exchange, plan, (candidate, { force }) =>
        after(
          admission.admitCandidate(exchange, operation, bindings, plan, request, candidate),
          connect(candidate, force)
        ), health.of)
    )
    exchange.model = candidate.model
    exchange.firstTokenMs = exchange.elapsed()
    const finishOnce = once((exit) => {
      // The provider's time is all of it, from here on.
      exchange.upstreamMs += exchange.elapsed() - (exchange.firstTokenMs ?? 0)
      return finish(exchange, operation, request, exit)
    })
    // A caller that has gone by now is never connected; the request has to be accounted for all the same.
    yield* Effect.addFinalizer(() => Effect.ignore(finishOnce(Exit.interrupt())))
    const session = { exchange, bindings, plan, candidate }
    const charges = new RealtimeCharges(pipeline, session)
    const interception = new RealtimeInterception(active, context, request.model)
    return opened(options, {
      session,
      upstream,
      charges,
      interception,
      transcriber: (model) => transcriber(options, exchange.caller, candidate, model)
    }, finishOnce)
  })

  return (request, exchange) =>
    Effect.suspend(() => {
      began(exchange)
      return Effect.exit(connected(request, exchange))
    }).pipe(
      Effect.flatMap((exit) => settled(exchange, exit)),
      Effect.onExit((exit) => Exit.isSuccess(exit) ? Effect.void : finish(exchange, operation, request, exit))
    )
}

/** The model that transcribes, with its prices; one that nobody knows is the provider's own affair, and has none. */
const transcriber = (
  { models }: Options,
  caller: Caller,
  { model: { provider } }: Candidate,
  model: string
): Effect.Effect<ModelInfo, GatewayError> => {
  const id = modelId(provider, model)
  return Effect.catchIf(
    models.resolve(id, caller),
    ({ code }) => code === "model_not_found",
    () => Effect.succeed<ModelInfo>({ id, provider, model, status: "active" })
  )
}

type Parts = Omit<ConstructorParameters<typeof RealtimeSession>[0], "caller">

const opened = (
  options: Options,
  parts: Parts,
  finish: (exit: Exit.Exit<void, GatewayError>) => Effect.Effect<void, GatewayError>
): OpenedSession => {
  /** Set while the session runs, and what it was told before that. */
  let running: RealtimeSession | undefined
  let told: ((session: RealtimeSession) => void) | undefined
  const tell = (word: (session: RealtimeSession) => void) => () => {
    if (running === undefined) told = word
    else word(running)
  }
  const { exchange } = parts.session
  const metrics = options.pipeline.metrics?.realtime
  const count = (session: RealtimeSession): void => {
    const { caller, provider } = session.takeFrames()
    metrics?.came("caller", caller)
    metrics?.came("provider", provider)
  }
  const close = Effect.fnUntraced(function*(session: RealtimeSession, end: SessionEnd) {
    const lefts = session.close(end, exchange.elapsed())
    count(session)
    metrics?.closed()
    for (const left of lefts) yield* Effect.ignore(left)
    exchange.isAnswered = true
    yield* Effect.ignore(finish(end.error === undefined ? Exit.void : Exit.fail(end.error)))
  })
  const ran = Effect.fnUntraced(function*(caller: RealtimeChannel): Effect.fn.Return<void, never, Scope.Scope> {
    const ended = yield* Deferred.make<SessionEnd>()
    const callerWork = yield* Queue.unbounded<Work>()
    const providerWork = yield* Queue.unbounded<Work>()
    const session = new RealtimeSession({ ...parts, caller }, callerWork, providerWork, ended)
    running = session
    for (const worker of session.workers) {
      yield* Effect.forkScoped(
        Effect.catchDefect(
          worker,
          (defect) => Effect.catch(failed(exchange, defect), (error) => Effect.sync(() => session.fail(error, 1011)))
        )
      )
    }
    yield* Effect.forkScoped(session.impatience)
    yield* Effect.forkScoped(Effect.forever(Effect.andThen(
      Effect.sleep(options.pingMs),
      Effect.sync(() => {
        count(session)
        session.ping()
      })
    )))
    const { slug } = parts.session.candidate.provider
    yield* Effect.forkScoped(watchSilence(session, slug, options.idleMs))
    yield* Effect.forkScoped(Effect.andThen(
      Effect.sleep(options.maxSessionMs),
      Effect.sync(() => session.fail(tooLong(slug, options.maxSessionMs), 1001))
    ))
    yield* Effect.onExit(
      Effect.suspend(() => {
        metrics?.opened()
        session.start()
        told?.(session)
        return Deferred.await(ended)
      }),
      (exit) => close(session, Exit.isSuccess(exit) ? exit.value : callerGone)
    )
  })
  return {
    run: (caller) => Effect.scoped(ran(caller)),
    stop: tell((session) => session.stop()),
    cut: tell((session) => session.cut())
  }
}
