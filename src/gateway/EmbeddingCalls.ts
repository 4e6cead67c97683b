/**
 * The calls of one request for vectors: in as many as its provider's limits need, some at a time, joined in the request's
 * order. What one attempt has got the next one at the same model does not ask for again.
 */
import { Effect, Exit } from "effect"
import { type EmbeddingRequest, type EmbeddingResponse, inputFrom, inputsOf } from "../sdk/Embedding.ts"
import type { EmbedCall, EmbedLimits, ProviderError } from "../sdk/Provider.ts"
import type { Usage } from "../sdk/Usage.ts"
import type { Turn } from "./Attempts.ts"
import type { Candidate } from "./Plan.ts"
import { estimateText } from "./TokenEstimate.ts"
import type { Calls, Wasted } from "./WholeOperation.ts"

/** Takes one call to its provider. */
export type SendEmbed = (candidate: Candidate, call: EmbedCall) => Effect.Effect<EmbeddingResponse, ProviderError>

/** As `SendEmbed`; `again` says that the same was asked of the same model before, and failed. */
type Send = (candidate: Candidate, call: EmbedCall, again: boolean) => ReturnType<SendEmbed>

type Input = string | ReadonlyArray<number>

/**
 * OpenAI takes 2,048 inputs and 300,000 tokens a call (https://platform.openai.com/docs/api-reference/embeddings/create). Fewer
 * keep each answer small enough to be read without holding up other requests; tokens are estimated, hence the margin.
 */
export const defaultLimits: EmbedLimits = { inputs: 256, tokens: 250_000 }

/** Calls of one request that run at the same time. */
const concurrency = 4

/** The tokens of an input by estimate. */
export const estimateEmbedding = (input: Input): number =>
  typeof input === "string" ? estimateText(input) : input.length

/** Cuts inputs into pieces within the limits, in order; an input that is too large by itself is a piece of its own. */
export const pieces = (
  inputs: ReadonlyArray<Input>,
  { inputs: maxInputs, tokens: maxTokens }: EmbedLimits
): ReadonlyArray<ReadonlyArray<Input>> => {
  const cut: Array<Array<Input>> = []
  let piece: Array<Input> = []
  let tokens = 0
  for (const input of inputs) {
    const size = estimateEmbedding(input)
    if (piece.length > 0 && (piece.length >= maxInputs || tokens + size > maxTokens)) {
      cut.push(piece)
      piece = []
      tokens = 0
    }
    piece.push(input)
    tokens += size
  }
  if (piece.length > 0) cut.push(piece)
  return cut
}

const sum = (responses: ReadonlyArray<EmbeddingResponse>, whole: ReadonlyArray<ReadonlyArray<Input>>): Usage => {
  let inputTokens = 0
  let isEstimated = false
  for (const [at, { usage }] of responses.entries()) {
    if (usage === undefined || usage.estimated === true) isEstimated = true
    inputTokens += usage?.inputTokens ??
      (whole[at] ?? []).reduce<number>((all, input) => all + estimateEmbedding(input), 0)
  }
  return { inputTokens, outputTokens: 0, ...(isEstimated ? { estimated: true } : {}) }
}

/** What has been asked of one model, and what of it is there. */
interface Work {
  readonly candidate: Candidate
  readonly pieces: ReadonlyArray<ReadonlyArray<Input>>
  readonly got: Array<EmbeddingResponse | undefined>
}

const joined = ({ candidate, got, pieces }: Work): EmbeddingResponse => {
  const responses = got.filter((response) => response !== undefined)
  const [first] = responses
  return {
    model: first?.model ?? candidate.model.model,
    embeddings: responses.flatMap(({ embeddings }) => embeddings),
    usage: sum(responses, pieces),
    ...(first?.droppedParams === undefined ? {} : { droppedParams: first.droppedParams })
  }
}

/** The calls of one request. */
export class EmbeddingCalls implements Calls<EmbeddingResponse> {
  readonly #request: EmbeddingRequest
  readonly #send: Send
  readonly #works = new Map<string, Work>()

  constructor(request: EmbeddingRequest, send: Send) {
    this.#request = request
    this.#send = send
  }

  call(
    candidate: Candidate,
    { connectTimeout, force }: Turn & { readonly connectTimeout: number }
  ): Effect.Effect<EmbeddingResponse, ProviderError> {
    const again = this.#works.has(candidate.model.id)
    const work = this.#workAt(candidate)
    const one = (request: EmbeddingRequest) =>
      this.#send(candidate, { request, model: candidate.model, connectTimeout, force }, again)
    if (work.pieces.length === 1) return one(this.#request)
    let failure: Exit.Exit<never, ProviderError> | undefined
    const asked = Effect.forEach(work.pieces, (piece, at) => {
      // After a failure nothing more is begun, but what is under way is paid for and may end.
      if (work.got[at] !== undefined || failure !== undefined) return Effect.void
      return Effect.map(Effect.exit(one({ ...this.#request, input: inputFrom(piece) })), (exit) => {
        if (Exit.isSuccess(exit)) work.got[at] = exit.value
        else failure ??= Exit.failCause(exit.cause)
      })
    }, { concurrency, discard: true })
    return Effect.flatMap(asked, () => failure ?? Effect.succeed(joined(work)))
  }

  wasted(served: string | undefined): ReadonlyArray<Wasted> {
    const found: Array<Wasted> = []
    for (const [id, { candidate, got, pieces }] of this.#works) {
      if (id === served) continue
      const there = pieces.flatMap((piece, at) => {
        const response = got[at]
        return response === undefined ? [] : [{ piece, response }]
      })
      if (there.length === 0) continue
      found.push({
        model: candidate.model,
        usage: sum(there.map(({ response }) => response), there.map(({ piece }) => piece))
      })
    }
    return found
  }

  #workAt(candidate: Candidate): Work {
    const known = this.#works.get(candidate.model.id)
    if (known !== undefined) return known
    const work: Work = {
      candidate,
      pieces: pieces(inputsOf(this.#request.input), candidate.provider.embedLimits ?? defaultLimits),
      got: []
    }
    this.#works.set(candidate.model.id, work)
    return work
  }
}
