/**
 * Asks providers for their models: in the background on a schedule, and at once for a refresh. What a provider answered
 * stays in use until it answers anew, through any number of failures.
 *
 * Answers are kept by the provider's record, not by its slug. A provider that is swapped for another of the same name (a
 * reload of the configuration) starts afresh, and what belonged to the old one goes with it.
 */
import { Cause, Duration, Effect, Fiber, Option, Schedule } from "effect"
import { logOf } from "../../sdk/Log.ts"
import { type DiscoveredModel, type Provider, ProviderError, type ProviderRegistry } from "../../sdk/Provider.ts"
import { canonicalName } from "./ModelName.ts"

const log = logOf("models")

/** How discovery is paced. */
export interface DiscoveryOptions {
  /** Between two questions to a provider that does not say it itself, ms; default 5 minutes. */
  readonly interval?: number
  /** How long an answer may take, ms; default 10 s. */
  readonly timeout?: number
  /** What was answered to others who ask the same providers' records; default: an empty memory of its own. */
  readonly memory?: Memory
}

/** The models that a provider told of, by their canonical names there. */
export type Answer = ReadonlyMap<string, DiscoveredModel>

/** The running discovery. */
export interface Discovery {
  /** The last answer of this provider, or `undefined` where it never answered. */
  readonly answerOf: (provider: Provider) => Answer | undefined
  /** A number that changes with every answer. */
  readonly version: () => number
  /** Asks all registered providers now, in parallel, and waits until each has answered or failed. Never fails. */
  readonly refresh: Effect.Effect<void>
  /** Keeps asking, for ever. Interrupting it ends all its questions. */
  readonly run: Effect.Effect<never>
}

const defaultInterval = 300_000
const defaultTimeout = 10_000
/** How often to look for providers that came or went, ms. */
const watchInterval = 1000
/** No faster than this, whatever a configuration says, ms. */
const minInterval = 1000
const maxModels = 50_000
const maxIdLength = 256
const maxMessage = 200

interface State {
  /** Number of the question that was answered last; an older question's late answer does not replace it. */
  answered: number
  answer?: Answer
  failing: boolean
}

/** What providers have answered, by their records. */
export class Memory {
  readonly states = new WeakMap<Provider, State>()
  /** Changes with every answer. */
  version = 0
  questions = 0
}

const isCount = (value: number | undefined): value is number => Number.isSafeInteger(value) && (value ?? 0) > 0

/** Takes over what is usable: upstreams list models without ids, twice, or with limits that are none. */
const sanitize = (kind: string, models: ReadonlyArray<DiscoveredModel>): Answer => {
  const answer = new Map<string, DiscoveredModel>()
  for (const model of models) {
    const name = canonicalName(kind, model.model)
    if (name === "" || name.length > maxIdLength || answer.has(name)) continue
    if (answer.size >= maxModels) break
    const { contextWindow, maxOutputTokens, ...rest } = model
    answer.set(name, {
      ...rest,
      model: name,
      ...(isCount(contextWindow) ? { contextWindow } : {}),
      ...(isCount(maxOutputTokens) ? { maxOutputTokens } : {})
    })
  }
  return answer
}

/** What a log may say of a failure: the provider's bounded words, and of a fault in the plugin its name only. */
const reasonOf = (cause: Cause.Cause<ProviderError>): Readonly<Record<string, unknown>> => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  if (error !== undefined) {
    return {
      kind: error.kind,
      ...(error.status === undefined ? {} : { status: error.status }),
      reason: error.message.slice(0, maxMessage)
    }
  }
  const defect = Cause.squash(cause)
  return { kind: "defect", reason: defect instanceof Error ? defect.name : typeof defect }
}

/** Sets discovery up over the registered providers. Nothing is asked until `run` or `refresh` runs. */
export const make = (registry: ProviderRegistry["Service"], options: DiscoveryOptions = {}): Discovery => {
  const timeout = options.timeout ?? defaultTimeout
  const memory = options.memory ?? new Memory()
  const { states } = memory

  const stateOf = (provider: Provider): State => {
    const existing = states.get(provider)
    if (existing !== undefined) return existing
    const state: State = { answered: 0, failing: false }
    states.set(provider, state)
    return state
  }
  const isRegistered = (provider: Provider): boolean => registry.get(provider.slug) === provider

  const ask = (
    provider: Provider,
    discover: Effect.Effect<ReadonlyArray<DiscoveredModel>, ProviderError>
  ): Effect.Effect<void> =>
    Effect.suspend(() => {
      const state = stateOf(provider)
      const question = ++memory.questions
      return discover.pipe(
        Effect.timeoutOrElse({
          duration: timeout,
          orElse: () =>
            Effect.fail(
              new ProviderError({
                provider: provider.slug,
                kind: "transient",
                message: `the list of models did not arrive within ${timeout} ms`
              })
            )
        }),
        Effect.matchCauseEffect({
          onSuccess: (models) =>
            Effect.suspend(() => {
              if (question < state.answered) return Effect.void
              state.answered = question
              state.answer = sanitize(provider.kind, models)
              memory.version++
              if (!state.failing) return Effect.void
              state.failing = false
              return log.info("model discovery works again", { provider: provider.slug })
            }),
          onFailure: (cause) =>
            Effect.suspend(() => {
              // A question that was called off says nothing of the provider.
              if (Cause.hasInterruptsOnly(cause)) return Effect.void
              // One warning a change of state: a server that is off for a night is one line, not hundreds.
              if (state.failing || question < state.answered || !isRegistered(provider)) return Effect.void
              state.failing = true
              return log.warning("model discovery failed; what was known before stays in use", {
                provider: provider.slug,
                ...reasonOf(cause)
              })
            })
        })
      )
    })

  /** Asks one provider at once and then at its own pace, up to a fifth earlier or later so that replicas spread out. */
  const follow = (
    provider: Provider,
    discover: Effect.Effect<ReadonlyArray<DiscoveredModel>, ProviderError>
  ): Effect.Effect<unknown> => {
    const interval = Math.max(minInterval, provider.discoveryInterval ?? options.interval ?? defaultInterval)
    return ask(provider, discover).pipe(Effect.repeat(Schedule.jittered(Schedule.spaced(Duration.millis(interval)))))
  }

  return {
    answerOf: (provider) => states.get(provider)?.answer,
    version: () => memory.version,
    refresh: Effect.suspend(() =>
      Effect.forEach(
        registry.all(),
        (provider) => provider.discover === undefined ? Effect.void : ask(provider, provider.discover),
        { concurrency: "unbounded", discard: true }
      )
    ),
    run: Effect.suspend(() => {
      const followed = new Map<Provider, Fiber.Fiber<unknown>>()
      const look = Effect.gen(function*() {
        const registered = new Set(registry.all())
        for (const [provider, fiber] of followed) {
          if (registered.has(provider)) continue
          followed.delete(provider)
          yield* Fiber.interrupt(fiber)
        }
        for (const provider of registered) {
          if (provider.discover === undefined || followed.has(provider)) continue
          followed.set(provider, yield* Effect.forkChild(follow(provider, provider.discover)))
        }
      })
      return Effect.forever(Effect.andThen(look, Effect.sleep(watchInterval)))
    })
  }
}
