/**
 * The order in which a route's models are tried. Pure: what is known of the models, the request's estimated size and a
 * random number come in, the same candidates in another order come out; none is ever left out.
 *
 * After the policy has had its say, models that have been failing lately are moved behind the others. They stay in the
 * list, since a sick model is better than none.
 */
import type { ModelInfo, Prices } from "../sdk/Model.ts"
import { costNanoUsd, isPriced } from "../sdk/Pricing.ts"
import type { RoutePolicy } from "../sdk/Routes.ts"
import type { Usage } from "../sdk/Usage.ts"
import type { ModelHealth } from "./Health.ts"
import type { Candidate } from "./Plan.ts"

/** A candidate, and its share of the traffic under the policy `weighted`. */
export interface RankInput {
  readonly candidate: Candidate
  /** Not negative. */
  readonly weight: number
}

/** What the order depends on beside the candidates. */
export interface RankContext {
  /** The recent figures of a model, by its canonical id. */
  readonly health: (modelId: string) => ModelHealth
  /** Estimated size of the prompt, tokens. */
  readonly inputTokens: number
  /** Expected size of the answer, tokens; see `expectedOutput`. */
  readonly outputTokens: number
  readonly expected?: Expected
  /** Requests with the same key get the same model of a weighted route. */
  readonly stickyKey?: string
  /** From 0 up to but not including 1; a new one for each request. */
  readonly random: number
}

/** Tokens of an answer as answers usually are. */
const typicalOutput = 500

/** How long the answer is expected to be, tokens: a limit says how long it may become, not how long it will be. */
export const expectedOutput = (maxOutputTokens: number | undefined): number =>
  Math.min(maxOutputTokens ?? typicalOutput, typicalOutput)

/** What a request is expected to consume with a model of these prices, where that is not the tokens of its size alone. */
type Expected = (prices: Prices) => Usage

/** What a request of this size is estimated to cost with a model, nano-USD; nothing is taken for cached. */
export const estimatedNanoUsd = (
  { prices }: ModelInfo,
  inputTokens: number,
  outputTokens: number,
  expected?: Expected
): number | undefined => {
  if (prices === undefined) return undefined
  const usage = expected === undefined ? { inputTokens, outputTokens } : expected(prices)
  return isPriced(usage, prices) ? costNanoUsd(usage, prices) : undefined
}

/** Fewer calls than these say nothing of a model's health. */
const minSamples = 5
const sickErrorRate = 0.5

/** Whether a model has been failing so much lately that others are tried before it. */
export const isSick = (health: ModelHealth): boolean =>
  health.samples >= minSamples && health.errorRate >= sickErrorRate

// ---------------------------------------------------------------------------------------------------------------------
// Policies
// ---------------------------------------------------------------------------------------------------------------------

/** Sorted by a figure, lowest first; equals stay in their order. Each figure is worked out once. */
const sortedBy = <A>(items: ReadonlyArray<A>, figure: (item: A) => number): Array<A> =>
  items
    .map((item) => ({ item, value: figure(item) }))
    // Two infinities subtract to NaN, which no sort can use.
    .sort((a, b) => a.value === b.value ? 0 : a.value < b.value ? -1 : 1)
    .map(({ item }) => item)

const toFront = <A>(items: ReadonlyArray<A>, at: number): Array<A> => {
  const chosen = items.slice(at, at + 1)
  return [...chosen, ...items.slice(0, at), ...items.slice(at + 1)]
}

/** FNV-1a over UTF-16 units with the finalizer of MurmurHash3, so that near texts fall far apart; from 0 to 1, both excluded. */
const hash = (text: string): number => {
  let value = 0x811c9dc5
  for (let at = 0; at < text.length; at++) value = Math.imul(value ^ text.charCodeAt(at), 0x01000193)
  value = Math.imul(value ^ (value >>> 16), 0x85ebca6b)
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35)
  value ^= value >>> 16
  return ((value >>> 0) + 0.5) / 2 ** 32
}

/** The place of the model that a sticky key belongs to, or that a random number falls on. */
const chosenByWeight = (inputs: ReadonlyArray<RankInput>, context: RankContext): number => {
  const { random, stickyKey } = context
  if (stickyKey !== undefined) {
    // Weighted rendezvous hashing: when one model cannot serve, the keys of all others keep theirs.
    let best = 0
    let most = -1
    for (const [at, { candidate, weight }] of inputs.entries()) {
      const score = weight / -Math.log(hash(`${candidate.model.id} ${stickyKey}`))
      if (score > most) {
        most = score
        best = at
      }
    }
    return best
  }
  const total = inputs.reduce((sum, { weight }) => sum + weight, 0)
  let left = random * total
  for (const [at, { weight }] of inputs.entries()) {
    if (left < weight) return at
    left -= weight
  }
  return 0
}

const weighted = (inputs: ReadonlyArray<RankInput>, context: RankContext): Array<RankInput> => {
  const byWeight = sortedBy(inputs, ({ weight }) => -weight)
  return byWeight.some(({ weight }) => weight > 0) ? toFront(byWeight, chosenByWeight(byWeight, context)) : byWeight
}

/** One request in twenty asks a model that is not the fastest, to see whether it still is not. */
const exploration = 0.05

/** How long an answer of the expected size takes, ms; without a single good answer, for ever. */
const expectedMs = (health: ModelHealth, outputTokens: number): number => {
  const { durationMs, firstTokenMs, msPerToken } = health
  if (msPerToken !== undefined) return (firstTokenMs ?? 0) + msPerToken * outputTokens
  return firstTokenMs ?? durationMs ?? Infinity
}

const fastest = (inputs: ReadonlyArray<RankInput>, context: RankContext): Array<RankInput> => {
  const known: Array<RankInput> = []
  const toTry: Array<RankInput> = []
  const beingTried: Array<RankInput> = []
  for (const input of inputs) {
    const { inFlight, samples } = context.health(input.candidate.model.id)
    // A model of which nothing is known, or no longer, is tried by one request; the others need not wait for its verdict.
    if (samples > 0) known.push(input)
    else if (inFlight === 0) toTry.push(input)
    else beingTried.push(input)
  }
  const byTime = sortedBy(
    known,
    ({ candidate }) => expectedMs(context.health(candidate.model.id), context.outputTokens)
  )
  const ranked = [...toTry, ...byTime, ...beingTried]
  if (toTry.length > 0 || ranked.length < 2 || context.random >= exploration) return ranked
  return toFront(ranked, 1 + Math.floor(context.random / exploration * (ranked.length - 1)))
}

const byPolicy = (
  policy: RoutePolicy,
  inputs: ReadonlyArray<RankInput>,
  context: RankContext
): ReadonlyArray<RankInput> => {
  switch (policy) {
    case "priority":
      return inputs
    case "weighted":
      return weighted(inputs, context)
    case "cheapest":
      // A model whose price is not known could be the dearest.
      return sortedBy(
        inputs,
        ({ candidate: { model } }) =>
          estimatedNanoUsd(model, context.inputTokens, context.outputTokens, context.expected) ?? Infinity
      )
    case "fastest":
      return fastest(inputs, context)
    case "least_busy":
      return sortedBy(inputs, ({ candidate }) => context.health(candidate.model.id).inFlight)
  }
}

/** Orders candidates by the policy, best first, sick ones last. */
export const rank = (
  policy: RoutePolicy,
  inputs: ReadonlyArray<RankInput>,
  context: RankContext
): ReadonlyArray<Candidate> => {
  const ranked = byPolicy(policy, inputs, context)
  const healthy: Array<Candidate> = []
  const sick: Array<Candidate> = []
  for (const { candidate } of ranked) {
    const list = isSick(context.health(candidate.model.id)) ? sick : healthy
    list.push(candidate)
  }
  return sick.length === 0 ? healthy : [...healthy, ...sick]
}
