/**
 * Micro-batching: requests for vectors that come within a short time of each other, to the same model and with the same
 * parameters, go to their provider in one call. Each gets its own vectors and its own share of the usage, so the shares add up
 * to what the provider told.
 *
 * Callers do not hang together: one that leaves is left out, and the call is ended only when all have left. Where the provider
 * refuses the call for what is in it, each request is sent by itself, so that only the wrong one fails. What fails otherwise may
 * be tried again by each caller, then by itself: whatever broke the call cannot break it for the others twice.
 */
import { Deferred, Effect, Exit, Latch, type Scope } from "effect"
import { type EmbeddingRequest, type EmbeddingResponse, inputFrom, inputsOf } from "../sdk/Embedding.ts"
import type { EmbedCall, ProviderError } from "../sdk/Provider.ts"
import type { EmbedBatching } from "../sdk/Routes.ts"
import type { Usage } from "../sdk/Usage.ts"
import { defaultLimits, estimateEmbedding, type SendEmbed } from "./EmbeddingCalls.ts"
import type { Candidate } from "./Plan.ts"

/** Failures that one of the inputs has caused. */
const ofContent: ReadonlySet<ProviderError["kind"]> = new Set(["caller", "contextLength", "contentPolicy"])

/** Requests that are sent by themselves at the same time, after their common call was refused. */
const concurrency = 8

type Input = string | ReadonlyArray<number>

/** A request that waits for its vectors. */
interface Member {
  readonly call: EmbedCall
  readonly inputs: ReadonlyArray<Input>
  /** By estimate. */
  readonly tokens: number
  readonly resume: (exit: Exit.Exit<EmbeddingResponse, ProviderError>) => void
  hasLeft: boolean
}

/** What requests must have in common. */
const keyOf = ({ model }: Candidate, { connectTimeout, request }: EmbedCall): string => {
  const { dimensions, encoding, extensions, input, user }: EmbeddingRequest = request
  return JSON.stringify([
    model.id,
    // A caller may be in a greater hurry than others are.
    connectTimeout,
    dimensions,
    encoding,
    user,
    extensions,
    // Texts and tokens do not go into one request.
    inputsOf(input).every((one) => typeof one === "string")
  ])
}

const sizeOf = (inputs: ReadonlyArray<Input>): number =>
  inputs.reduce<number>((sum, input) => sum + estimateEmbedding(input), 0)

/** Shares a whole number by weights, so that the shares add up to it: the largest remainders get what is left. */
export const shares = (whole: number, weights: ReadonlyArray<number>): ReadonlyArray<number> => {
  const all = weights.reduce((sum, weight) => sum + weight, 0)
  if (all === 0) return weights.map((_, at) => at === 0 ? whole : 0)
  const exact = weights.map((weight) => whole * weight / all)
  const found = exact.map(Math.floor)
  let left = whole - found.reduce((sum, share) => sum + share, 0)
  const byRemainder = exact
    .map((value, at) => ({ at, remainder: value - Math.floor(value) }))
    .sort((a, b) => b.remainder - a.remainder || a.at - b.at)
  for (const { at } of byRemainder) {
    if (left <= 0) break
    found[at] = (found[at] ?? 0) + 1
    left--
  }
  return found
}

/** Each member's own part of what came for all of them. */
const parted = (response: EmbeddingResponse, members: ReadonlyArray<Member>): ReadonlyArray<EmbeddingResponse> => {
  const { embeddings, extensions: _, usage, ...common } = response
  const tokens = usage === undefined ? undefined : shares(usage.inputTokens, members.map((member) => member.tokens))
  const estimated = usage?.estimated === true ? { estimated: true } : {}
  let from = 0
  return members.map(({ inputs }, at) => {
    const own = embeddings.slice(from, from + inputs.length)
    from += inputs.length
    const share: Usage | undefined = tokens === undefined
      ? undefined
      : { inputTokens: tokens[at] ?? 0, outputTokens: 0, ...estimated }
    return { ...common, embeddings: own, ...(share === undefined ? {} : { usage: share }) }
  })
}

/** Requests that gather for one call. */
class Group {
  readonly #candidate: Candidate
  readonly members: Array<Member> = []
  /** It holds as much as it may. */
  readonly full = Latch.makeUnsafe(false)
  /** Nobody waits for it any more. */
  readonly left = Latch.makeUnsafe(false)
  inputs = 0
  tokens = 0

  constructor(candidate: Candidate) {
    this.#candidate = candidate
  }

  add(member: Member): void {
    this.members.push(member)
    this.inputs += member.inputs.length
    this.tokens += member.tokens
    // All who were here may have left before the call went out.
    this.left.closeUnsafe()
  }

  leave(member: Member): void {
    member.hasLeft = true
    if (this.members.every(({ hasLeft }) => hasLeft)) this.left.openUnsafe()
  }

  /** Ends the wait of those who have no answer yet. */
  abandon(exit: Exit.Exit<void>): void {
    const ended = Exit.isFailure(exit) ? Exit.failCause(exit.cause) : Exit.interrupt()
    for (const { resume } of this.members) resume(ended)
  }

  /** Sends what has gathered, and hands out what comes. */
  readonly send = Effect.fnUntraced(function*(this: Group, send: SendEmbed): Effect.fn.Return<void> {
    const members = this.members.filter(({ hasLeft }) => !hasLeft)
    const [first] = members
    if (first === undefined) return
    const together: EmbedCall = members.length === 1 ? first.call : {
      ...first.call,
      request: { ...first.call.request, input: inputFrom(members.flatMap(({ inputs }) => inputs)) },
      force: members.some(({ call }) => call.force === true)
    }
    const exit = yield* Effect.exit(send(this.#candidate, together))
    if (Exit.isSuccess(exit)) {
      const parts = members.length === 1 ? [exit.value] : parted(exit.value, members)
      for (const [at, part] of parts.entries()) members[at]?.resume(Exit.succeed(part))
      return
    }
    const error = exit.cause.reasons.find((reason) => reason._tag === "Fail")?.error
    if (members.length === 1 || error === undefined || !ofContent.has(error.kind)) {
      for (const { resume } of members) resume(exit)
      return
    }
    yield* Effect.forEach(
      members,
      (member) =>
        Effect.flatMap(
          Effect.exit(send(this.#candidate, member.call)),
          (own) => Effect.sync(() => member.resume(own))
        ),
      { concurrency, discard: true }
    )
  })
}

/** Takes calls to their providers, together where they may be. The batches run in the scope's life, not in any caller's. */
export const make = (scope: Scope.Scope, send: SendEmbed) => {
  const groups = new Map<string, Group>()

  const run = (key: string, group: Group, windowMs: number): Effect.Effect<void> =>
    Effect.interruptible(Effect.timeoutOption(group.full.await, windowMs)).pipe(
      Effect.andThen(Effect.suspend(() => {
        if (groups.get(key) === group) groups.delete(key)
        return Effect.interruptible(Effect.raceFirst(group.send(send), group.left.await))
      })),
      // Nobody waits for a group that has come to an end by itself, such as with the gateway.
      Effect.onExit((exit) => Effect.sync(() => group.abandon(exit)))
    )

  /** Joins the group of a call, or begins one; tells whether it is to be run. */
  const join = (key: string, candidate: Candidate, member: Member, maxInputs: number, maxTokens: number) => {
    const known = groups.get(key)
    if (
      known !== undefined &&
      (known.inputs + member.inputs.length > maxInputs || known.tokens + member.tokens > maxTokens)
    ) {
      groups.delete(key)
      known.full.openUnsafe()
    }
    const joined = groups.get(key)
    const group = joined ?? new Group(candidate)
    if (joined === undefined) groups.set(key, group)
    group.add(member)
    if (group.inputs >= maxInputs) {
      groups.delete(key)
      group.full.openUnsafe()
    }
    return { group, isNew: joined === undefined }
  }

  const together = (
    candidate: Candidate,
    call: EmbedCall,
    inputs: ReadonlyArray<Input>,
    { maxInputs, windowMs }: EmbedBatching
  ): Effect.Effect<EmbeddingResponse, ProviderError> =>
    // A group that has begun is run in any case: others may have joined it by the time that its first member has left.
    Effect.uninterruptibleMask((restore) => {
      const answer = Deferred.makeUnsafe<EmbeddingResponse, ProviderError>()
      const member: Member = {
        call,
        inputs,
        tokens: sizeOf(inputs),
        hasLeft: false,
        resume: (exit) => Deferred.doneUnsafe(answer, exit)
      }
      const key = keyOf(candidate, call)
      const limits = candidate.provider.embedLimits ?? defaultLimits
      const { group, isNew } = join(key, candidate, member, Math.min(maxInputs, limits.inputs), limits.tokens)
      const begun = isNew ? Effect.forkIn(run(key, group, windowMs), scope) : Effect.void
      return Effect.andThen(
        begun,
        Effect.onInterrupt(restore(Deferred.await(answer)), () => Effect.sync(() => group.leave(member)))
      )
    })

  /** Sends a call, with others where batching is on and it is small enough. */
  return (candidate: Candidate, call: EmbedCall, batching: EmbedBatching | undefined) => {
    if (batching === undefined || batching.windowMs <= 0) return send(candidate, call)
    const inputs = inputsOf(call.request.input)
    return inputs.length >= batching.maxInputs ? send(candidate, call) : together(candidate, call, inputs, batching)
  }
}
